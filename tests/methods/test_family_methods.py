"""The family of semi-supervised methods: each loss again, image by image and from the formula, in all its settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from ssfer.core.errors import SsferError
from ssfer.methods.base import Method
from ssfer.methods.context import Context
from ssfer.methods.shared.imbalance import Population, curriculum_thresholds
from ssfer.methods.shared.targets import quarter_turns
from ssfer.methods.vat import VAT
from ssfer.models.unit_head import UnitHead
from ssfer.testing.method_setup import student
from ssfer.testing.methods import CLASSES, batch_of, build, gradients
from tests.support.method_batches import built

Batch = dict[str, Tensor]


def probs_of(network: nn.Module, images: Tensor) -> list[list[float]]:
    """Predictions, one image at a time."""
    with torch.no_grad():
        return [network(x[None])[0].softmax(dim=0).tolist() for x in images]


def cross_entropy(network: nn.Module, image: Tensor, target: int | list[float]) -> float:
    with torch.no_grad():
        logs = network(image[None])[0].log_softmax(dim=0).tolist()
    if isinstance(target, int):
        return -logs[target]
    return -sum(t * v for t, v in zip(target, logs, strict=True))


def labeled(method: Method, batch: Batch) -> float:
    losses = [cross_entropy(method.student, x, int(y)) for x, y in zip(batch["x_lb"], batch["y_lb"], strict=True)]
    return sum(losses) / len(losses)


def squared(first: list[list[float]], second: list[list[float]]) -> float:
    pairs = [(a - b) ** 2 for p, q in zip(first, second, strict=True) for a, b in zip(p, q, strict=True)]
    return sum(pairs) / len(pairs)


def at_step(method: Method, done: int) -> Method:
    method.clock.steps.fill_(done)
    return method


def median_confidence(method: Method, batch: Batch) -> float:
    """A threshold that some of the batch pass and some do not."""
    confidence = sorted(max(p) for p in probs_of(method.student, batch["x_ulb_w"]))
    return (confidence[2] + confidence[3]) / 2


# --- weights that rise ---


@pytest.mark.parametrize(
    ("name", "ramp"),
    [*((name, ramp) for name in ("mean_teacher", "pi_model") for ramp in ("sigmoid", "linear"))]
    + [(name, "") for name in ("pseudo_label", "vat", "mixmatch", "remixmatch")],
)
def test_the_unlabeled_weight_rises_over_its_share_of_the_run(name: str, ramp: str) -> None:
    bell, shape = ramp == "sigmoid", {"ramp": ramp} if ramp else {}
    for share in (0.5, 0.0):
        weights = []
        for done in (0, 2, 5, 9):
            losses = {}
            for lambda_u in (0.0, 3.0):
                method = at_step(build(name, rampup=share, lambda_u=lambda_u, **shape), done)
                torch.manual_seed(1)
                losses[lambda_u] = method(batch_of(name))
            weights.append((losses[3.0]["loss"] - losses[0.0]["loss"]) / losses[3.0]["unlabeled_loss"])
        linear = [0.0, 0.4, 1.0, 1.0] if share else [1.0] * 4
        expected = [3 * (math.exp(-5 * (1 - t) ** 2) if bell else t) for t in linear]
        assert [w.item() for w in weights] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_without_a_known_length_the_weight_is_full() -> None:
    shipped = build("pi_model", lambda_u=2.0)
    method = type(shipped)(Context(shipped.student, shipped.settings))
    out = method(batch_of("pi_model"))
    assert_close(out["loss"].detach(), out["labeled_loss"] + 2 * out["unlabeled_loss"])


@pytest.mark.parametrize(
    "name", ["cgmatch", "mean_teacher", "mixmatch", "pi_model", "pseudo_label", "remixmatch", "uda", "vat"]
)
def test_the_clock_follows_the_engines_steps(name: str) -> None:
    method = build(name)
    method.after_step(4)
    assert method.clock.share.item() == 0.5


# --- Pi-model, Mean Teacher, Pseudo-Label ---


def test_pi_model_compares_the_two_views_predictions() -> None:
    method, batch = build("pi_model", rampup=0.0), batch_of("pi_model")
    out = method(batch)
    expected = squared(probs_of(method.student, batch["x_ulb_w"]), probs_of(method.student, batch["x_ulb_w2"]))
    assert out["unlabeled_loss"].item() == pytest.approx(expected, rel=1e-4)
    assert out["loss"].item() == pytest.approx(labeled(method, batch) + 10 * expected, rel=1e-4)
    assert out["util_ratio"] == 1


def test_mean_teacher_compares_the_student_with_the_teacher_on_another_view() -> None:
    method, batch = build("mean_teacher", rampup=0.0), batch_of("mean_teacher")
    out = method(batch)
    expected = squared(probs_of(method.teacher.module, batch["x_ulb_w"]), probs_of(method.student, batch["x_ulb_w2"]))
    assert out["loss"].item() == pytest.approx(labeled(method, batch) + 50 * expected, rel=1e-4)
    assert method.eval_module() is method.teacher.module


@pytest.mark.parametrize("name", ["ada_cm", "ema_teacher", "leaf", "mean_teacher"])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_teacher_starts_as_the_student_and_follows_with_the_methods_decay(name: str, decay: float) -> None:
    shipped = build(name, ema_decay=decay)
    method = type(shipped)(Context(student(), shipped.settings, Population([4, 3, 2, 3, 4], 20)))
    old = {k: v.clone() for k, v in method.student.state_dict().items()}
    assert all(torch.equal(v, old[k]) for k, v in method.teacher.module.state_dict().items())
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    method.after_step(0)
    for key, value in method.teacher.module.state_dict().items():
        assert_close(value, decay * old[key] + (1 - decay) * method.student.state_dict()[key])


@pytest.mark.parametrize("some", [False, True])
def test_pseudo_label_teaches_each_view_its_own_class(some: bool) -> None:
    batch = batch_of("pseudo_label")
    threshold = median_confidence(build("pseudo_label"), batch) if some else 0.0
    method = build("pseudo_label", threshold=threshold, rampup=0.0, lambda_u=3.0)
    out = method(batch)
    probs = probs_of(method.student, batch["x_ulb_w"])
    expected = sum(-math.log(max(p)) for p in probs if max(p) > threshold) / 6
    assert out["unlabeled_loss"].item() == pytest.approx(expected, rel=1e-4)
    assert out["loss"].item() == pytest.approx(labeled(method, batch) + 3 * expected, rel=1e-4)
    assert out["util_ratio"].item() == pytest.approx(0.5 if some else 1)


@pytest.mark.parametrize("name", ["pseudo_label", "uda", "flexmatch", "comatch", "ccssl"])
def test_the_threshold_operator_is_the_methods_own(name: str) -> None:
    """Certainty equals a threshold of one."""
    method = build(name, threshold=1.0)
    with torch.no_grad():
        method.student.head.bias[0] = 1e4
    if name == "flexmatch":  # its classes are as likely as each other to be known
        method.imbalance.confident[:] = torch.tensor([0, 4, 4, 4, 4, 4])
    assert method(batch_of(name))["util_ratio"].item() == (name in ("comatch", "ccssl"))


# --- VAT ---


class Linear(nn.Module):
    """softmax(W x): the divergence of a small step r is r' H r / 2 with H = W' (diag(p) - p p') W."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.map = nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.map(images.flatten(1))


def vat(**changes: Any) -> VAT:
    return VAT(Context(Linear(12, 3), build("vat", **changes).settings))


def test_vat_finds_the_direction_that_power_iteration_finds() -> None:
    images, keys = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)), batch_of("vat")["key_ulb"][:2]
    method = vat(iterations=12, xi=0.01)
    probs = method.student(images).detach().softmax(dim=1)
    found = method.direction(images, probs, keys).flatten(1)
    w = method.student.map.weight.detach()
    for i, p in enumerate(probs):
        curvature = w.T @ (p.diag() - p[:, None] * p[None, :]) @ w
        top = torch.linalg.eigh(curvature).eigenvectors[:, -1]
        assert abs(found[i] @ top).item() == pytest.approx(1, abs=2e-3)
        assert found[i].norm().item() == pytest.approx(1, rel=1e-5)
    one = vat(iterations=1, xi=0.01).direction(images, probs, keys).flatten(1)
    assert not torch.allclose(one, found, atol=0.02)  # the number of iterations counts


def test_vat_looks_for_the_direction_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 224 pixels TF32, which CUDA's convolutions use by default, and bf16 round a step of 0.1 away."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    method, seen = vat(), []
    method.student.register_forward_hook(lambda *args: seen.append((torch.backends.cudnn.allow_tf32, args[2].dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        method.direction(torch.ones(6, 3, 2, 2), torch.full((6, 3), 1 / 3), batch_of("vat")["key_ulb"])
    assert seen == [(False, torch.float32)]
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("of_all", [True, False])
def test_vat_measures_how_far_the_perturbation_moves_predictions(of_all: bool) -> None:
    for epsilon, weight in ((6.0, 0.0), (2.0, 0.5)):
        method = build("vat", epsilon=epsilon, entropy_weight=weight, lambda_u=2.0, rampup=0.0, labeled=of_all)
        batch = batch_of("vat")
        images, keys = torch.cat([batch["x_lb"], batch["x_ulb_w"]]), torch.cat([batch["key_lb"], batch["key_ulb"]])
        probs = method.student(images).detach().softmax(dim=1)
        moved = images + epsilon * method.direction(images, probs, keys)
        total = 0.0
        pairs = list(zip(probs.tolist(), probs_of(method.student, moved), strict=True))[0 if of_all else 4 :]
        for p, q in pairs:
            total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / len(pairs)
        entropy = -sum(a * math.log(a) for p in probs[4:].tolist() for a in p) / 6
        out = method(batch)
        assert out["unlabeled_loss"].item() == pytest.approx(total, rel=1e-3)
        expected = labeled(method, batch) + 2 * total + weight * entropy
        assert out["loss"].item() == pytest.approx(expected, rel=1e-3)


def test_vat_leaves_no_gradient_of_its_search_behind_and_has_it_for_each_image_alone() -> None:
    method, batch = build("vat"), batch_of("vat")
    probs = method.student(batch["x_ulb_w"]).detach().softmax(dim=1)
    method.zero_grad()
    whole = method.direction(batch["x_ulb_w"], probs, batch["key_ulb"])
    assert all(p.grad is None for p in method.parameters())
    assert not whole.requires_grad
    part = method.direction(batch["x_ulb_w"][2:4], probs[2:4], batch["key_ulb"][2:4])
    assert_close(part, whole[2:4], rtol=1e-3, atol=1e-4)
    other = vat(xi=5.0).direction(torch.ones(6, 3, 2, 2), torch.full((6, 3), 1 / 3), batch["key_ulb"])
    small = vat(xi=0.01).direction(torch.ones(6, 3, 2, 2), torch.full((6, 3), 1 / 3), batch["key_ulb"])
    assert not torch.allclose(other, small, atol=1e-3)  # xi is used


# --- UDA ---


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_uda_teaches_sharpened_predictions_of_the_confident(temperature: float) -> None:
    batch = batch_of("uda")
    threshold = median_confidence(build("uda"), batch)
    method = build("uda", threshold=threshold, temperature=temperature, lambda_u=2.0)
    out, total = method(batch), 0.0
    for p, strong in zip(probs_of(method.student, batch["x_ulb_w"]), batch["x_ulb_s"], strict=True):
        if max(p) > threshold:
            powered = [v ** (1 / temperature) for v in p]
            total += cross_entropy(method.student, strong, [v / sum(powered) for v in powered]) / 6
    assert out["unlabeled_loss"].item() == pytest.approx(total, rel=1e-4)
    assert out["loss"].item() == pytest.approx(labeled(method, batch) + 2 * total, rel=1e-4)


@pytest.mark.parametrize(
    ("annealing", "rise"), [("linear", 0.1), ("log", 1 - math.exp(-0.5)), ("exp", math.exp(-4.5)), ("none", None)]
)
def test_uda_leaves_out_labeled_images_that_are_too_easy_yet(annealing: str, rise: float | None) -> None:
    method, batch = at_step(build("uda", annealing=annealing, lambda_u=0.0), 1), batch_of("uda", n_lb=8)
    limit = math.inf if rise is None else 0.2 + 0.8 * rise
    own = [cross_entropy(method.student, x, int(y)) for x, y in zip(batch["x_lb"], batch["y_lb"], strict=True)]
    hard = [loss for loss in own if math.exp(-loss) < limit]
    assert method(batch)["loss"].item() == pytest.approx(sum(hard) / len(hard), rel=1e-4)
    assert len(hard) == 8 if rise is None else 0 < len(hard) < 8


# --- FlexMatch, FreeMatch, SoftMatch ---


def pseudo_label_loss(method: Method, batch: Batch, weight: Callable[[int, list[float]], float]) -> float:
    """Mean over images of weight(i, predictions) * cross-entropy of the likeliest class on the strong view."""
    total = 0.0
    for i, p in enumerate(probs_of(method.student, batch["x_ulb_w"])):
        total += weight(i, p) * cross_entropy(method.student, batch["x_ulb_s"][i], p.index(max(p))) / 6
    return total


def test_flexmatch_has_a_threshold_for_each_class() -> None:
    batch = batch_of("flexmatch")
    threshold = median_confidence(build("flexmatch"), batch)
    method = build("flexmatch", threshold=threshold, lambda_u=2.0)
    method.imbalance.confident[:] = torch.tensor([2, 9, 1, 5, 2, 1])
    limits = curriculum_thresholds(torch.tensor([9, 1, 5, 2, 1]), 20, threshold).tolist()
    kept = [max(p) > limits[p.index(max(p))] for p in probs_of(method.student, batch["x_ulb_w"])]
    assert 0 < sum(kept) < 6
    expected = pseudo_label_loss(method, batch, lambda i, p: kept[i])
    assert method(batch)["loss"].item() == pytest.approx(labeled(method, batch) + 2 * expected, rel=1e-4)


def test_flexmatch_is_fixmatch_with_thresholds_per_class_switched_on() -> None:
    batch = batch_of("flexmatch")
    own = build("flexmatch", threshold=0.5, lambda_u=2.0)
    fix = build("fixmatch", threshold=0.5, lambda_u=2.0)
    params = build("fixmatch").imbalance.settings.model_copy(update={"class_thresholds": True})
    fix.imbalance = type(fix.imbalance)(params, Population([4, 3, 2, 3, 4], 20))
    for step in range(3):
        assert torch.equal(own(batch)["loss"], fix(batch)["loss"])
        own.after_step(step)
        fix.after_step(step)
    assert own.imbalance.confident.tolist() != [20, 0, 0, 0, 0, 0]


def test_freematch_masks_by_its_own_thresholds_and_adds_fairness() -> None:
    method, batch = build("freematch", lambda_u=2.0, lambda_f=0.5), batch_of("freematch")
    method.adaptive.confidence.fill_(0.6)
    method.adaptive.mean[:] = torch.tensor([0.4, 0.1, 0.2, 0.2, 0.1])
    method.adaptive.histogram[:] = torch.tensor([0.5, 0.1, 0.2, 0.1, 0.1])
    limits = [0.6, 0.15, 0.3, 0.3, 0.15]
    kept = [max(p) >= limits[p.index(max(p))] for p in probs_of(method.student, batch["x_ulb_w"])]
    assert sum(kept) > 0
    unlabeled = pseudo_label_loss(method, batch, lambda i, p: kept[i])
    strong = [p for p, keep in zip(probs_of(method.student, batch["x_ulb_s"]), kept, strict=True) if keep]
    p = [sum(row[k] for row in strong) for k in range(CLASSES)]
    h = [sum(row.index(max(row)) == k for row in strong) for k in range(CLASSES)]
    found = [a / b if b else 0.0 for a, b in zip(p, h, strict=True)]
    target = [0.8, 1.0, 1.0, 2.0, 1.0]
    fairness = sum(t / 5.8 * math.log(f / sum(found) + 1e-12) for t, f in zip(target, found, strict=True))
    expected = labeled(method, batch) + 2 * unlabeled + 0.5 * fairness
    assert method(batch)["loss"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("name", "rule"), [("freematch", "adaptive"), ("softmatch", "gaussian")])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_running_means_move_once_a_step_with_the_methods_decay(name: str, rule: str, decay: float) -> None:
    method, batch = build(name, decay=decay), batch_of(name)
    method(batch)
    assert torch.equal(getattr(method, rule).mean, torch.full((5,), 0.2))
    method.after_step(0)
    mean = torch.tensor(probs_of(method.student, batch["x_ulb_w"])).mean(dim=0)
    start = mean if name == "softmatch" else 0.2  # the first batch's
    assert_close(getattr(method, rule).mean, decay * start + (1 - decay) * mean, rtol=1e-4, atol=1e-6)


def test_freematch_keeps_nothing_below_its_thresholds_and_still_learns_labels() -> None:
    method = build("freematch", lambda_f=1.0)
    method.adaptive.confidence.fill_(1.5)
    method.adaptive.mean[:] = 0.2
    out = method(batch_of("freematch"))
    assert out["util_ratio"] == 0 and torch.equal(out["loss"].detach(), out["labeled_loss"])


def test_softmatch_weighs_by_confidence_and_teaches_unaligned_classes() -> None:
    method, batch = build("softmatch", lambda_u=2.0), batch_of("softmatch")
    method.gaussian.mu.fill_(0.7)
    method.gaussian.variance.fill_(0.09)
    method.gaussian.mean[:] = torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1])

    def weight(i: int, p: list[float]) -> float:
        aligned = [v / m for v, m in zip(p, (0.6, 0.1, 0.1, 0.1, 0.1), strict=True)]
        below = min(max(aligned) / sum(aligned) - 0.7, 0)
        return math.exp(-((below * 2) ** 2) / 0.18)

    out = method(batch)
    expected = pseudo_label_loss(method, batch, weight)
    assert out["loss"].item() == pytest.approx(labeled(method, batch) + 2 * expected, rel=1e-4)
    weights = [weight(i, p) for i, p in enumerate(probs_of(method.student, batch["x_ulb_w"]))]
    assert out["util_ratio"].item() == pytest.approx(sum(weights) / 6, rel=1e-4)
    assert 0 < min(weights) < 1


# --- MixMatch, ReMixMatch ---


def draw(alpha: float, n: int) -> tuple[float, list[int]]:
    """What a method draws after torch.manual_seed(3)."""
    torch.manual_seed(3)
    lam = torch.distributions.Beta(alpha, alpha).sample().item()
    return max(lam, 1 - lam), torch.randperm(n).tolist()


def sharpened(p: list[float], temperature: float) -> list[float]:
    powered = [v ** (1 / temperature) for v in p]
    return [v / sum(powered) for v in powered]


def one_hot(label: Tensor) -> list[float]:
    return [float(k == int(label)) for k in range(CLASSES)]


def mixed(images: list[Tensor], labels: list[list[float]], alpha: float) -> list[tuple[Tensor, list[float]]]:
    lam, order = draw(alpha, len(images))
    return [
        (
            lam * images[i] + (1 - lam) * images[j],
            [lam * a + (1 - lam) * b for a, b in zip(labels[i], labels[j], strict=True)],
        )
        for i, j in enumerate(order)
    ]


@pytest.mark.parametrize(("temperature", "alpha"), [(0.5, 0.75), (1.0, 4.0)])
def test_mixmatch_by_the_loop(temperature: float, alpha: float) -> None:
    method = build("mixmatch", temperature=temperature, alpha=alpha, rampup=0.0, lambda_u=7.0)
    batch = batch_of("mixmatch")
    both = zip(*(probs_of(method.student, batch[k]) for k in ("x_ulb_w", "x_ulb_w2")), strict=True)
    guess = [sharpened([(a + b) / 2 for a, b in zip(p, q, strict=True)], temperature) for p, q in both]
    images = [*batch["x_lb"], *batch["x_ulb_w"], *batch["x_ulb_w2"]]
    pairs = mixed(images, [*map(one_hot, batch["y_lb"]), *guess, *guess], alpha)
    first = sum(cross_entropy(method.student, x, t) for x, t in pairs[:4]) / 4
    rest = squared([probs_of(method.student, x[None])[0] for x, _ in pairs[4:]], [t for _, t in pairs[4:]])
    torch.manual_seed(3)
    out = method(batch)
    assert out["labeled_loss"].item() == pytest.approx(first, rel=1e-4)
    assert out["unlabeled_loss"].item() == pytest.approx(rest, rel=1e-3)
    assert out["loss"].item() == pytest.approx(first + 7 * rest, rel=1e-3)


@pytest.mark.parametrize(("temperature", "alpha"), [(0.5, 0.75), (1.0, 4.0)])
def test_remixmatch_by_the_loop(temperature: float, alpha: float) -> None:
    method = build("remixmatch", temperature=temperature, alpha=alpha, lambda_u=1.5, lambda_s=0.6, lambda_r=0.3)
    batch = batch_of("remixmatch")
    prior, mean = torch.tensor([4, 3, 2, 3, 4]) / 16, torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1])
    method.imbalance.means[:] = mean
    ratio = (prior / mean).tolist()
    guess = []
    for p in probs_of(method.student, batch["x_ulb_w"]):
        aligned = [v * r for v, r in zip(p, ratio, strict=True)]
        guess.append(sharpened([v / sum(aligned) for v in aligned], temperature))
    images = [*batch["x_lb"], *batch["x_ulb_s"], *batch["x_ulb_s2"], *batch["x_ulb_w"]]
    pairs = mixed(images, [*map(one_hot, batch["y_lb"]), *guess, *guess, *guess], alpha)
    first = sum(cross_entropy(method.student, x, t) for x, t in pairs[:4]) / 4
    rest = sum(cross_entropy(method.student, x, t) for x, t in pairs[4:]) / 18
    pure = sum(cross_entropy(method.student, x, t) for x, t in zip(batch["x_ulb_s"], guess, strict=True)) / 6
    turns, turned = quarter_turns(batch["key_ulb"]).tolist(), 0.0
    for x, k in zip(batch["x_ulb_s"], turns, strict=True):
        features = method.student.forward_head(
            method.student.forward_features(torch.rot90(x, k, (1, 2))[None]), pre_logits=True
        )
        turned -= method.turns(features)[0].log_softmax(dim=0)[k].item() / 6
    torch.manual_seed(3)
    out = method(batch)
    assert out["loss"].item() == pytest.approx(first + 1.5 * rest + 0.6 * pure + 0.3 * turned, rel=1e-4)


@pytest.mark.parametrize("name", ["mixmatch", "remixmatch"])
def test_no_gradient_flows_through_guesses(name: str) -> None:
    """Constant guesses of the same values give the same gradient."""
    method, batch = build(name), batch_of(name)
    expected = gradients(method, batch, seed=3)
    network, replies = method.student, []
    forward = network.forward

    def constant(images: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            replies.append(len(images))
            return forward(images).detach().clone()
        return forward(images, *args, **kwargs)

    network.forward = constant
    found = gradients(method, batch, seed=3)
    assert replies == [12 if name == "mixmatch" else 6]
    assert all(torch.equal(found[k], expected[k]) for k in expected)


# --- CoMatch, CCSSL ---


def embedded(method: Method, images: Tensor) -> Tensor:
    with torch.no_grad():
        pooled = method.student.forward_head(method.student.forward_features(images), pre_logits=True)
        return F.normalize(method.projection.layers(pooled), dim=1)


@pytest.mark.parametrize("changes", [{}, {"smoothing": 0.5, "temperature": 1.0, "graph_threshold": 0.1}])
def test_comatch_by_the_loop_over_three_steps(changes: dict[str, float]) -> None:
    own = {"smoothing": 0.9, "temperature": 0.2, "graph_threshold": 0.4} | changes
    method = build("comatch", threshold=0.5, lambda_u=2.0, lambda_c=0.5, memory=16, **own)
    prior, memory = torch.tensor([4, 3, 2, 3, 4]) / 16, []
    method.imbalance.means[:] = mean = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1])
    for step in range(3):
        batch = batch_of("comatch", seed=step)
        weak = torch.tensor(probs_of(method.student, batch["x_ulb_w"])) * (prior / mean)
        weak = weak / weak.sum(dim=1, keepdim=True)
        z, first, second = (embedded(method, batch[f"x_ulb_{v}"]) for v in ("w", "s", "s2"))
        target = weak.clone()
        for i in range(6) if memory else ():
            near = torch.tensor([math.exp(float(z[i] @ m) / own["temperature"]) for m, _ in memory[-16:]])
            near = near / near.sum()
            target[i] = own["smoothing"] * weak[i] + (1 - own["smoothing"]) * sum(
                w * q for w, (_, q) in zip(near, memory[-16:], strict=True)
            )
        unlabeled = contrast = 0.0
        for i in range(6):
            if target[i].max() >= 0.5:
                unlabeled += cross_entropy(method.student, batch["x_ulb_s"][i], target[i].tolist()) / 6
            row = [1.0 if i == j else float(target[i] @ target[j]) for j in range(6)]
            row = [v if v >= own["graph_threshold"] else 0.0 for v in row]
            scores = [math.exp(float(first[i] @ second[j]) / own["temperature"]) for j in range(6)]
            contrast -= sum(v / sum(row) * math.log(s / sum(scores)) for v, s in zip(row, scores, strict=True)) / 6
        out = method(batch)
        expected = labeled(method, batch) + 2 * unlabeled + 0.5 * contrast
        assert out["loss"].item() == pytest.approx(expected, rel=1e-4)
        assert out["contrastive_loss"].item() == pytest.approx(contrast, rel=1e-4)
        truth = F.one_hot(batch["y_lb"], CLASSES).float()
        memory += list(zip(z, weak, strict=True)) + list(zip(embedded(method, batch["x_lb"]), truth, strict=True))
        method.memory.after_step(0)
    assert method.memory.position == 30 % 16
    for n in range(14, 30):  # predictions as they were before smoothing
        assert_close(method.memory.targets[n % 16], memory[n][1], rtol=1e-4, atol=1e-5)
    assert method.memory.features.shape == (16, method.settings.dim)


@pytest.mark.parametrize("changes", [{}, {"push_threshold": 0.0, "temperature": 0.5}])
def test_ccssl_by_the_loop(changes: dict[str, float]) -> None:
    batch = batch_of("ccssl")
    own = {"push_threshold": median_confidence(build("ccssl"), batch), "temperature": 0.1} | changes
    method = build("ccssl", threshold=0.5, lambda_u=2.0, lambda_c=0.5, **own)
    probs = probs_of(method.student, batch["x_ulb_w"])
    v = torch.cat([embedded(method, batch["x_ulb_s"]), embedded(method, batch["x_ulb_s2"])])
    contrast = 0.0
    for a in range(12):
        scores = {b: math.exp(float(v[a] @ v[b]) / own["temperature"]) for b in range(12) if b != a}
        total = weights = 0.0
        for b, score in scores.items():
            p, q = probs[a % 6], probs[b % 6]
            weight = 0.0
            if a % 6 == b % 6:
                weight = 1.0
            elif p.index(max(p)) == q.index(max(q)) and min(max(p), max(q)) >= own["push_threshold"]:
                weight = max(p) * max(q)
            weights += weight
            total -= weight * math.log(score / sum(scores.values()))
        contrast += total / weights / 12
    unlabeled = pseudo_label_loss(method, batch, lambda i, p: max(p) >= 0.5)
    out = method(batch)
    assert out["contrastive_loss"].item() == pytest.approx(contrast, rel=1e-3)
    assert out["loss"].item() == pytest.approx(labeled(method, batch) + 2 * unlabeled + 0.5 * contrast, rel=1e-4)


# --- Ada-CM ---


@pytest.mark.parametrize("network", ["unit", "plain"])
@pytest.mark.parametrize("changes", [{}, {"lambda_x": 0.7, "lambda_u": 2.0, "lambda_s": 0.3, "temperature": 0.5}])
def test_ada_cm_by_the_loop(changes: dict[str, float], network: str) -> None:
    own = {"lambda_x": 0.5, "lambda_u": 1.0, "lambda_s": 0.1, "temperature": 0.07} | changes
    method, batch = build("ada_cm", network=network, dropout=0.0, **changes), batch_of("ada_cm")
    assert isinstance(method.student.head, UnitHead if network == "unit" else nn.Linear)
    both = zip(*(probs_of(method.student, batch[k]) for k in ("x_ulb_w", "x_ulb_w2")), strict=True)
    probs = [[(a + b) / 2 for a, b in zip(p, q, strict=True)] for p, q in both]
    limit = sorted(map(max, probs))[3]
    method.thresholds.fill_(2.0)
    for p in probs:
        method.thresholds[p.index(max(p))] = limit - 1e-4
    kept = [max(p) >= limit - 1e-4 for p in probs]
    assert sum(kept) == 3
    unlabeled = sum(
        cross_entropy(method.student, x, p.index(max(p)))
        for x, p, keep in zip(batch["x_ulb_s"], probs, kept, strict=True)
        if keep
    )
    rest = [i for i in range(6) if not kept[i]]
    vectors = []
    for key in ("x_ulb_w", "x_ulb_w2"):
        with torch.no_grad():
            pooled = method.student.forward_head(method.student.forward_features(batch[key]), pre_logits=True)
        vectors += [F.normalize(pooled[i], dim=0) for i in rest]
    contrast = 0.0
    for a in range(6):
        scores = {b: math.exp(float(vectors[a] @ vectors[b]) / own["temperature"]) for b in range(6) if b != a}
        contrast -= math.log(scores[(a + 3) % 6] / sum(scores.values())) / 6
    expected = own["lambda_x"] * labeled(method, batch) + own["lambda_u"] * unlabeled / 6 + own["lambda_s"] * contrast
    assert method(batch)["loss"].item() == pytest.approx(expected, rel=1e-4)


def test_ada_cms_thresholds_rise_with_the_confidence_in_labeled_images() -> None:
    method = build("ada_cm", threshold=0.3)
    probs = torch.tensor([[0.9, 0.1, 0, 0, 0], [0.7, 0.3, 0, 0, 0], [0.2, 0.8, 0, 0, 0], [0.6, 0.4, 0, 0, 0]])
    method.raise_thresholds(2, probs, torch.tensor([0, 0, 1, 1]))
    factor = 0.97 / (1 + math.exp(-2))
    assert method.thresholds.tolist() == pytest.approx([0.8 * factor, 0.8 * factor, 0.3, 0.3, 0.3])
    assert method.labeled_pass_views == "train"
    assert build("ada_cm", threshold_views="eval").labeled_pass_views == "eval"
    assert method.eval_module() is method.teacher.module


def test_ada_cms_classifier_and_contrast_see_unit_features_after_dropout() -> None:
    method, batch = build("ada_cm", dropout=0.9), batch_of("ada_cm")
    seen: list[Tensor] = []
    method.student.head.classifier.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    method(batch)
    (features,) = seen  # one pass of all views
    assert features.shape == (4 + 3 * 6, 16) and 0.8 < (features == 0).float().mean() < 1
    assert_close(features.norm(dim=1)[features.any(dim=1)], torch.ones(int(features.any(dim=1).sum())))


# --- what methods need ---


@pytest.mark.parametrize("name", ["remixmatch", "comatch", "ccssl"])
def test_a_network_without_features_is_refused(name: str) -> None:
    with pytest.raises(SsferError, match="needs features besides logits, which Linear cannot give"):
        built(name, Linear(12, 3), Population([1, 1, 1], 20))


@pytest.mark.parametrize("name", ["flexmatch", "freematch", "softmatch", "remixmatch", "comatch"])
def test_methods_that_need_to_know_the_data_say_so(name: str) -> None:
    with pytest.raises(ValueError, match="needs? the labeled images per class and the number of unlabeled images"):
        built(name, build(name).student)


def test_what_a_method_adds_starts_alike_whatever_was_drawn_before() -> None:
    heads = []
    for before in (0, 3):
        torch.manual_seed(before)
        torch.rand(before)
        state = torch.random.get_rng_state()
        heads.append(build("remixmatch", seed=0).turns.weight)
        torch.random.set_rng_state(state)
    assert torch.equal(*heads)
