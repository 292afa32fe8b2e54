"""ssfer.methods.leaf and shared.ambiguous: LEAF specification 4, 4.1 and the invariants that are of training."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from ssfer.config import profiles as profile
from ssfer.core.errors import SsferError
from ssfer.data.augmentations.strong import Strong
from ssfer.data.augmentations.weak import Weak
from ssfer.data.dataset import FaceDataset
from ssfer.evaluation.inference import predictions
from ssfer.methods.build import build_method
from ssfer.methods.context import Context
from ssfer.methods.leaf import LEAF
from ssfer.methods.registry import METHODS
from ssfer.methods.shared.ambiguous import AmbiguousPseudoLoss, AmbiguousSettings, ambiguous_loss, number_of_classes
from ssfer.methods.shared.imbalance import Population
from ssfer.methods.shared.labeled_thresholds import adaptive_thresholds
from ssfer.methods.shared.losses import nt_xent
from ssfer.methods.shared.self_training import one_class
from ssfer.methods.shared.settings import ImbalanceSettings
from ssfer.models.expert_head import add_experts, expert_head
from ssfer.models.features import features_and_logits
from ssfer.stages.labeled_pass import labeled_pass_batches
from ssfer.train.device import Machine
from tests.support import factory
from tests.support.method_batches import batch_of, built, leaf_method, student

CALM = {"dropout": 0.0}


def calm(**changes: Any) -> LEAF:
    """A method that draws nothing, so that its formulas can be followed."""
    return leaf_method(**CALM | changes).eval()


@torch.no_grad()
def halve(method: LEAF, batch: dict[str, Tensor]) -> None:
    """Set the thresholds where half of the images pass."""
    mean = sum(method.student(batch[f"x_ulb_{v}"]).softmax(dim=1) for v in ("w", "w2")) / 2
    method.thresholds.fill_(mean.max(dim=1).values.sort().values[2:4].mean())


def parts(method: LEAF, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Section 4 in separate passes."""
    z_x = method.student(batch["x_lb"])
    (q_a, z_a), (q_b, z_b) = (features_and_logits(method.student, batch[f"x_ulb_{v}"]) for v in ("w", "w2"))
    z_s = method.student(batch["x_ulb_s"])
    p = (z_a.softmax(dim=1) + z_b.softmax(dim=1)) / 2
    confidence, label = p.detach().max(dim=1)
    keep = confidence >= method.thresholds[label]
    loss, weight = ambiguous_loss(z_s, ((z_a + z_b) / 2).softmax(dim=1), method.settings.k_max)
    beta = (F.cross_entropy(z_s, label) / (loss * weight).mean()).detach()
    return {
        "labeled_loss": F.cross_entropy(z_x, batch["y_lb"]),
        "unlabeled_loss": beta * (keep * weight * loss).mean(),
        "contrastive_loss": nt_xent(q_a[~keep], q_b[~keep]),
        "util_ratio": keep.float().mean(),
        "z_s": z_s,
    }


# --- the loss ---


def test_loss_is_that_of_section_4() -> None:
    for seed in range(4):
        method, batch = calm(lambda_x=0.5, lambda_u=2.0, lambda_s=0.3), batch_of(seed)
        halve(method, batch)
        out, expected = method(batch), parts(method, batch)
        for name in ("labeled_loss", "unlabeled_loss", "contrastive_loss", "util_ratio"):
            assert_close(out[name], expected[name].detach(), rtol=1e-4, atol=1e-5)
        total = 0.5 * expected["labeled_loss"] + 2 * expected["unlabeled_loss"] + 0.3 * expected["contrastive_loss"]
        assert_close(out["loss"], total, rtol=1e-4, atol=1e-5)
        assert out["util_ratio"] == 0.5


def test_balance_of_both_levels_joins_the_loss_in_training() -> None:
    torch.manual_seed(1)
    method, batch = leaf_method(balance_coef=0.5).train(), batch_of()
    out = method(batch)
    p = method.settings
    rest = p.lambda_x * out["labeled_loss"] + p.lambda_u * out["unlabeled_loss"] + p.lambda_s * out["contrastive_loss"]
    assert out["balance_loss"] > 0
    assert_close(out["loss"].detach(), rest + out["balance_loss"], rtol=1e-4, atol=1e-5)


def test_nobody_sure_means_contrast_alone_and_everybody_sure_means_none() -> None:
    """Invariant 14."""
    method, batch = calm(), batch_of()
    method.thresholds.fill_(1.1)
    out = method(batch)
    assert out["util_ratio"] == 0 and out["unlabeled_loss"] == 0
    (q_a, _), (q_b, _) = (features_and_logits(method.student, batch[f"x_ulb_{v}"]) for v in ("w", "w2"))
    assert_close(out["contrastive_loss"], nt_xent(q_a, q_b).detach(), rtol=1e-4, atol=1e-5)
    method.thresholds.fill_(0.0)
    out = method(batch)
    assert out["util_ratio"] == 1 and out["contrastive_loss"] == 0 and out["unlabeled_loss"] > 0


def test_with_all_images_kept_the_loss_has_the_scale_of_cross_entropy() -> None:
    """Invariant 16."""
    method, batch = calm(), batch_of(1)
    method.thresholds.fill_(0.0)
    out = method(batch)
    labels = (method.student(batch["x_ulb_w"]).softmax(1) + method.student(batch["x_ulb_w2"]).softmax(1)).argmax(1)
    expected = F.cross_entropy(method.student(batch["x_ulb_s"]), labels)
    assert out["unlabeled_loss"].item() == pytest.approx(expected.item(), abs=1e-5)


def settings(**changes: Any) -> AmbiguousSettings:
    values = {"k_max": 3, "coverage": 0.9, "mask_mode": "per_sample"}
    return AmbiguousSettings(**values | changes)


def test_masked_samples_learn_only_as_in_the_release() -> None:
    """Invariant 15, and the value of batch_mean: mean CE of all times the share kept."""
    g = torch.Generator().manual_seed(0)
    probs, target = torch.randn(6, 7, generator=g).softmax(dim=1), torch.tensor([0, 1, 2, 3, 4, 5])
    mask = torch.tensor([1.0, 0, 1, 0, 0, 1])
    for mode in ("per_sample", "batch_mean"):
        z = torch.randn(6, 7, generator=torch.Generator().manual_seed(1)).requires_grad_()
        loss = AmbiguousPseudoLoss(settings(mask_mode=mode))(z, target, mask, probs)
        loss.backward()
        assert (z.grad[mask == 1].abs().sum(dim=1) > 0).all()
        left_out = z.grad[mask == 0].abs().sum(dim=1)
        if mode == "per_sample":
            assert torch.equal(left_out, torch.zeros(3))
        else:
            assert (left_out > 0).all()
            assert loss.item() == pytest.approx(F.cross_entropy(z, target).item() * 0.5, abs=1e-6)


def test_a_batch_of_most_ambiguous_targets_divides_by_nothing() -> None:
    """Row 9: the release stops with ZeroDivisionError."""
    z = torch.randn(3, 4, requires_grad=True)
    loss = AmbiguousPseudoLoss(settings())(z, torch.zeros(3).long(), torch.ones(3), torch.full((3, 4), 0.25))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5) and torch.isfinite(z.grad).all()


def test_pseudo_labels_come_from_the_student() -> None:
    method, batch = calm(lambda_s=0.0), batch_of(2)
    method.thresholds.fill_(0.0)
    with torch.no_grad():
        for parameter in method.teacher.module.head.classifier.parameters():
            parameter.neg_()  # the averaged network thinks otherwise
    z_s = method.student(batch["x_ulb_s"])
    logits = [method.student(batch[f"x_ulb_{v}"]) for v in ("w", "w2")]
    label = (logits[0].softmax(1) + logits[1].softmax(1)).argmax(1)
    assert method(batch)["unlabeled_loss"].item() == pytest.approx(F.cross_entropy(z_s, label).item(), abs=1e-5)


def test_targets_give_the_weak_views_no_gradient_and_the_contrast_does() -> None:
    batch = batch_of(3)
    views = ("x_ulb_w", "x_ulb_w2", "x_ulb_s", "x_lb")
    for weight in (0.0, 0.1):
        for name in views:
            batch[name] = batch[name].detach().requires_grad_()
        method = calm(lambda_s=weight)
        halve(method, batch)
        out = method(batch)
        assert out["util_ratio"] == 0.5
        out["loss"].backward()
        assert [bool(batch[name].grad.any()) for name in views] == [weight > 0, weight > 0, True, True]


@pytest.mark.parametrize("name", ["distribution_alignment", "class_thresholds", "logit_adjustment"])
def test_corrections_of_imbalance_work_here_too(name: str) -> None:
    off = {"distribution_alignment": False, "class_thresholds": False, "logit_adjustment": 0.0}
    on = ImbalanceSettings(**off | {name: 1.5 if name == "logit_adjustment" else True})
    plain = calm()
    method = LEAF(Context(student(), plain.settings, Population((6, 3, 1), 20), on)).eval()
    method.student.load_state_dict(plain.student.state_dict())
    batch = batch_of(5) | {"idx_ulb": torch.arange(6)}
    for made in (plain, method):
        halve(made, batch)
    if name == "distribution_alignment":
        method.imbalance.means[:] = torch.tensor([0.1, 0.1, 0.8])
    out, other = method(batch), plain(batch)
    if name == "class_thresholds":
        assert other["util_ratio"] < 1 and out["util_ratio"] == 1  # nothing is known yet: every threshold is 0
    assert not torch.allclose(out["loss"], other["loss"])
    method.after_step(0)
    if name == "distribution_alignment":  # the images' predictions enter the running mean once
        logits = [plain.student(batch[f"x_ulb_{v}"]) for v in ("w", "w2")]
        mean = (logits[0].softmax(1) + logits[1].softmax(1)).mean(dim=0) / 2
        assert_close(method.imbalance.means[0], mean.detach(), rtol=1e-4, atol=1e-5)


# --- thresholds ---


def test_thresholds_worked_by_hand() -> None:
    """Classes: 0 rightly predicted with .9 and 1.0, 1 only wrongly, 2 rightly with .85, 3 absent."""
    probs = torch.tensor([[0.9, 0.1, 0, 0], [1.0, 0, 0, 0], [0.7, 0.3, 0, 0], [0.1, 0.05, 0.85, 0], [0, 0, 0.99, 0.01]])
    labels = torch.tensor([0, 0, 1, 2, 1])
    factors = (0.709127, 0.854373, 0.923997, 0.952553, 0.963508, 0.967602)
    for epoch, factor in enumerate(factors, 1):
        found = adaptive_thresholds(probs.double(), labels, epoch, 4)
        expected = [max(0.8, 0.95 * factor), 0.8, max(0.8, 0.85 * factor), 0.8]
        assert_close(found, torch.tensor(expected).double(), rtol=1e-5, atol=1e-6)
    assert adaptive_thresholds(probs, labels, 100, 4)[0].item() == pytest.approx(0.97 * 0.95)
    assert adaptive_thresholds(probs, labels, 100, 4, floor=0.95).tolist() == pytest.approx([0.95] * 4)


def test_method_takes_the_thresholds_over_and_keeps_them_with_its_state() -> None:
    method = leaf_method(threshold=0.3)
    assert torch.equal(method.thresholds, torch.full((3,), 0.3))
    probs, labels = torch.eye(3).double()[[0, 1, 1]], torch.tensor([0, 1, 2])
    method.raise_thresholds(4, probs, labels)
    factor = 0.97 / (1 + math.exp(-4))
    assert_close(method.thresholds, torch.tensor([factor, factor, 0.3]))
    other = leaf_method()
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.thresholds, method.thresholds)


@pytest.fixture
def faces(tmp_path: Path) -> FaceDataset:
    factory.write_faces(tmp_path / "faces", "faces", [i % 3 for i in range(11)])
    return FaceDataset([tmp_path / "faces"], classes=factory.CLASSES, cache_gib=1)


def test_thresholds_are_told_what_the_averaged_network_says_of_the_labeled_images(faces: FaceDataset) -> None:
    p = factory.tiny_params()
    machine, method = Machine(p.machine), leaf_method().train()
    method.teacher.module.load_state_dict(calm().student.state_dict())
    whole = labeled_pass_batches("eval", faces, p, machine)
    assert whole is not None and labeled_pass_batches(None, faces, p, machine) is None
    probs, labels = predictions(method.eval_module(), whole(1))
    assert labels.tolist() == faces.labels.tolist() and probs.shape == (11, 3)
    assert torch.equal(predictions(method.eval_module(), whole(2))[0], probs)  # whole images, no chance
    assert method.training and not method.teacher.module.training
    method.labeled_pass(0, whole(0))
    assert torch.equal(method.thresholds, leaf_method().thresholds)  # nothing is learned before training
    method.labeled_pass(3, whole(3))
    assert_close(method.thresholds.double(), adaptive_thresholds(probs, labels, 3, 3, method.settings.threshold))
    train = labeled_pass_batches("train", faces, p, machine)
    assert train is not None
    seen = [predictions(method.eval_module(), train(epoch)) for epoch in (1, 1, 2)]
    assert all(len(found) == 8 for found, _ in seen)  # batches of 4: three are left out
    assert torch.equal(seen[0][0], seen[1][0])  # a function of the epoch
    assert not torch.allclose(seen[0][0], seen[2][0])
    assert [labels.bincount().tolist() for _, labels in seen] != [[4, 4, 3]] * 3


# --- after a step ---


@pytest.mark.parametrize("decay", [0.0, 0.25])
def test_batch_norm_statistics_fade_if_asked_to_and_nothing_else_does(decay: float) -> None:
    """Row 13."""
    network = student()
    network.norm_extra = nn.BatchNorm1d(3)
    method = LEAF(Context(network, leaf_method(decay_buffers=decay).settings))
    before = copy.deepcopy(method.student.state_dict())
    method.after_step(0)
    for name, value in method.student.state_dict().items():
        fades = name in ("norm_extra.running_var", "norm_extra.running_mean")
        assert_close(value, before[name] * (1 - decay) if fades else before[name])
    assert method.teacher.module.norm_extra.running_var.tolist() == [1, 1, 1]  # the average moved before


# --- its parts in other methods ---


def with_parts(method: str, seed: int = 2024, leaf_parts: dict[str, bool] | None = None, **own: Any) -> Any:
    own = {"threshold": 0.4, "lambda_u": 2.0} | own
    return built(method, student(), own=own, seed=seed, leaf_parts=leaf_parts or {})


@pytest.mark.parametrize("method", ["ema_teacher", "fixmatch"])
def test_parts_that_are_off_leave_a_method_as_it_was(method: str) -> None:
    found, batch = with_parts(method), batch_of(6)
    plain = METHODS[method](Context(copy.deepcopy(found.student), found.settings))
    assert found.pseudo_loss is one_class and expert_head(found.student) is None
    for made in (found, plain):
        made.train()(batch)["loss"].backward()
    assert found.state_dict().keys() == plain.state_dict().keys()
    pairs = zip(found.student.parameters(), plain.student.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)


@pytest.mark.parametrize("method", ["ema_teacher", "fixmatch"])
def test_ambiguous_loss_inside_another_method(method: str) -> None:
    batch = batch_of(6)
    probs = with_parts(method).label_logits(batch["x_ulb_w"]).softmax(dim=1)
    confidence, label = probs.detach().max(dim=1)
    limit = confidence.sort().values[2:4].mean().item()  # half of them pass
    found = with_parts(method, threshold=limit, leaf_parts={"ambiguous_loss": True})
    plain = with_parts(method, threshold=limit)
    z = found.student(batch["x_ulb_s"])
    loss, weight = ambiguous_loss(z, probs, 2)
    mask = (confidence > limit).float()
    assert mask.sum() == 3
    expected = (F.cross_entropy(z, label) / (loss * weight).mean()) * (mask * weight * loss).mean()
    out = found(batch)
    assert_close(out["unlabeled_loss"], expected.detach(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(out["unlabeled_loss"], plain(batch)["unlabeled_loss"])
    assert torch.equal(out["labeled_loss"], plain(batch)["labeled_loss"])


@pytest.mark.parametrize("method", ["ema_teacher", "fixmatch"])
def test_expert_head_inside_another_method(method: str) -> None:
    found, batch = with_parts(method, leaf_parts={"expert_head": True}).train(), batch_of(6)
    networks = list(found.networks().values())
    assert all(expert_head(network) is not None for network in networks)
    out = found(batch)
    rest = out["labeled_loss"] + 2 * out["unlabeled_loss"]
    assert out["loss"].item() > rest.item()  # the experts' balance
    out["loss"].backward()
    assert found.student.head.semantic.gate.grad.any() and found.student.head.instance.gate.grad.any()
    again = with_parts(method, leaf_parts={"expert_head": True})
    other = with_parts(method, seed=1, leaf_parts={"expert_head": True})
    assert torch.equal(again.student.head.semantic.gate, found.student.head.semantic.gate)  # drawn from semisup.seed
    assert not torch.equal(other.student.head.semantic.gate, found.student.head.semantic.gate)


def test_building_a_method_draws_nothing_from_the_common_generator() -> None:
    network, params = student(), factory.tiny_params(semisup={"method": "leaf"})
    state = torch.get_rng_state()
    build_method(network, params.semisup, params.methods)
    assert torch.equal(torch.get_rng_state(), state)


def test_parts_are_refused_where_they_would_do_nothing() -> None:
    for part in ("expert_head", "ambiguous_loss"):
        with pytest.raises(
            SsferError, match=f"semisup.leaf_parts.{part} has no effect in method leaf; set it to false"
        ):
            with_parts("leaf", leaf_parts={part: True})


@pytest.mark.parametrize(("method", "on"), [("leaf", {}), ("fixmatch", {"ambiguous_loss": True})])
def test_too_few_classes_are_refused(method: str, on: dict[str, bool]) -> None:
    p = factory.tiny_params(semisup={"method": method, "leaf_parts": on}, methods={"leaf": {"k_max": 3}})
    with pytest.raises(SsferError, match="k_max 3 needs 4 classes at least, the data has 3; set it to 2 or less"):
        build_method(student(), p.semisup, p.methods)


def test_number_of_classes_is_the_classifiers() -> None:
    assert number_of_classes(student()) == 3
    for where in ("scores", "feature"):
        assert number_of_classes(leaf_method(instance_on=where).student) == 3


def test_more_experts_a_sample_than_there_are_is_refused() -> None:
    with pytest.raises(SsferError, match="top_k 5 is more than the 4 experts"):
        factory.tiny_params(methods={"leaf": {"top_k": 5}})


# --- presets, data ---

# Specification, section 3.2 and table 7: what the release does where the default differs.
RELEASE = {
    "shared_expert": True, "top_k": 1, "gate_init": "zeros", "instance_on": "feature", "balance_coef": 0.0,
    "combine": "logsumexp", "mask_mode": "batch_mean", "decay_buffers": 0.00001, "threshold_views": "train",
    "classifier": "new",
}  # fmt: skip


def test_presets_are_those_of_the_specification(project: Path) -> None:
    shipped = profile.resolve(["paper", "leaf", "rafdb"])[1]
    default = shipped.semisup
    assert (default.method, default.batch_size, default.uratio, default.lr) == ("leaf", 16, 1, 5e-4)
    assert (default.weight_decay, default.beta2) == (0.02, 0.999)
    # RAF-DB with 98 labels has 12,173 unlabeled faces: the steps of 20 epochs of 1,600
    assert default.epochs * (12_173 // 16) == pytest.approx(20 * 1600, rel=0.01)
    release = profile.resolve(["paper", "leaf", "leaf_authors_code", "rafdb"])[1]
    own = shipped.methods["leaf"]
    changed = {k: v for k, v in release.methods["leaf"].model_dump().items() if v != getattr(own, k)}
    assert changed == RELEASE
    assert release.semisup == default


def test_release_preset_is_two_residual_mlps_whose_gates_never_learn() -> None:
    """Row 3."""
    method = leaf_method(**RELEASE).train()
    method(batch_of())["loss"].backward()
    for level in (method.student.head.semantic, method.student.head.instance):
        assert len(level.experts) == 1
        assert not level.gate.grad.any() and not level.noise.grad.any() and not level.gate.any()
    assert method.labeled_pass_views == "train"
    assert leaf_method().labeled_pass_views == "eval"


def test_views_have_the_networks_size_and_strong_without_operations_is_weak() -> None:
    """Invariant 19."""
    image, box = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8), torch.tensor([30.0, 30, 190, 200])
    weak, mean = Weak(224, 0.2), (0.5, 0.5, 0.5)
    for key in range(4):
        plain = weak(image, box, key).image
        assert plain.shape == Strong(224, 0.2, "rand-m9-n3", mean)(image, box, key).image.shape == (3, 224, 224)
        assert torch.equal(Strong(224, 0.2, "rand-m9-n0", mean)(image, box, key).image, plain)


def test_experts_are_added_once() -> None:
    network = add_experts(student(), leaf_method().settings)
    with pytest.raises(SsferError, match="takes the place of a linear classifier"):
        LEAF(Context(network, leaf_method().settings))
