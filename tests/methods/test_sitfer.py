"""SIT-FER (its specification, sections 3 to 9): levels, fusion, memory, losses, gradients, what is evaluated."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from ssfer.core.errors import SsferError
from ssfer.data.augmentations.weak import Weak
from ssfer.data.batches import StepBatches, Stream
from ssfer.data.dataset import FaceDataset
from ssfer.evaluation.inference import eval_batches
from ssfer.methods.base import Method
from ssfer.methods.context import Context
from ssfer.methods.shared.imbalance import Population, align_distribution
from ssfer.methods.shared.settings import ImbalanceSettings
from ssfer.methods.sitfer import SITFER
from ssfer.models.classifier import body_of
from ssfer.models.fused import FusedClassifier, UnitFeatures
from ssfer.models.memory import InstanceMemory
from ssfer.models.sitfer_levels import Levels, class_max_scores, fuse, softmax_knn_probability
from ssfer.models.vit import build_classifier
from ssfer.train.device import Machine
from ssfer.train.optim import adamw, param_groups
from tests.support import factory
from tests.support.method_batches import built
from tests.support.training import fit_method

EXACT = {"rtol": 1e-5, "atol": 1e-6}
CLASSES, COUNTS = 3, (4, 3, 3)
LABELED = sum(COUNTS)
Batch = dict[str, Tensor]


def unit(seed: int, rows: int, dim: int = 6) -> Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def rows_of_probs(seed: int, rows: int = 5, classes: int = CLASSES) -> Tensor:
    return (2 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))).softmax(dim=1)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return base | {k: merged(base[k], v) if isinstance(v, dict) else v for k, v in changes.items()}


def settings(**changes: Any) -> SITFER.Settings:
    """The shipped settings with a small text encoder, no dropout and a low threshold."""
    shipped = factory.tiny_params().methods["sitfer"].model_dump()
    small = {"threshold": 0.36, "dropout": 0.0, "text": {"width": 16, "layers": 1, "heads": 2}}
    return SITFER.Settings(**merged(merged(shipped, small), changes))


def network(seed: int = 0, scale: float = 3.0) -> nn.Module:
    torch.manual_seed(seed)
    model = build_classifier(factory.tiny_params(model={"head_init": "torch_default"}).model, CLASSES)
    with torch.no_grad():
        model.head.weight.mul_(scale)
    return model


def method_of(seed: int = 0, **changes: Any) -> SITFER:
    return SITFER(Context(network(seed), settings(**changes), Population(COUNTS, 20, classes=factory.CLASSES)))


def images(seed: int, n: int) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def batch_of(seed: int = 0, n_lb: int = 4, n_ulb: int = 6) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return {
        "x_lb": images(seed, n_lb),
        "y_lb": torch.randint(CLASSES, (n_lb,), generator=g),
        "idx_lb": torch.randperm(LABELED, generator=g)[:n_lb],
        "x_ulb_w": images(seed + 1000, n_ulb),
        "x_ulb_s": images(seed + 2000, n_ulb),
        "y_ulb": torch.randint(CLASSES, (n_ulb,), generator=g),
        "idx_ulb": torch.randperm(20, generator=g)[:n_ulb],
    }


def all_labeled() -> Iterator[Batch]:
    """All labeled images in two batches, with classes 0, 0, 0, 0, 1, 1, 1, 2, 2, 2."""
    x, y = images(77, LABELED), torch.tensor([c for c, n in enumerate(COUNTS) for _ in range(n)])
    for part in (slice(0, 6), slice(6, LABELED)):
        yield {"x_lb": x[part], "y_lb": y[part], "idx_lb": torch.arange(LABELED)[part]}


def in_use(**changes: Any) -> SITFER:
    """A method whose memory is full and takes part."""
    method = method_of(**changes)
    method.labeled_pass(0, all_labeled())
    method.labeled_pass(99, all_labeled())
    return method.train()


def half_kept(method: SITFER, batch: Batch) -> float:
    """Set the threshold to where half of the faces pass; return it."""
    with torch.no_grad():
        probs = method.label_probs(*method.student(batch["x_ulb_w"]), method.text())
    confidence = probs.max(dim=1).values.sort().values
    middle = len(confidence) // 2
    assert confidence[middle] - confidence[middle - 1] > 1e-6
    threshold = float(confidence[middle - 1 : middle + 1].mean())
    method.settings = method.settings.model_copy(update={"threshold": threshold})
    return threshold


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}


# --- levels: worked numbers and slow oracles ---


def bank_with(cosines: list[float]) -> tuple[Tensor, Tensor]:
    """A feature along the first axis and unit vectors with these cosines to it."""
    return torch.tensor([[1.0, 0.0]]), torch.tensor([[c, math.sqrt(1 - c * c)] for c in cosines])


def test_class_max_has_the_numbers_worked_out_by_hand() -> None:
    feature, bank = bank_with([0.9, 0.2, 0.5, -0.4])
    labels = torch.tensor([0, 0, 1, 2])
    assert_close(class_max_scores(feature, bank, labels, 3), torch.tensor([[0.9, 0.5, 0.0]]))
    expected = torch.tensor([[0.48149, 0.32275, 0.19576]])
    assert_close(class_max_scores(feature, bank, labels, 3).softmax(dim=1), expected, rtol=0, atol=1e-5)


def test_softmax_knn_has_the_numbers_worked_out_by_hand() -> None:
    feature, bank = bank_with([0.9, 0.2, 0.5, -0.4])
    alone = softmax_knn_probability(feature, bank, torch.eye(4), 0.1)
    assert_close(alone, torch.tensor([[0.98113, 0.00089, 0.01797, 2.2e-6]]), rtol=0, atol=1e-5)
    found = softmax_knn_probability(feature, bank, torch.eye(3)[[0, 0, 1, 2]], 0.1)
    assert_close(found, torch.tensor([[0.98203, 0.01797, 2.2e-6]]), rtol=0, atol=1e-5)
    assert found[0, 2].item() == pytest.approx(2.2e-6, rel=0.02)


def test_fusion_has_the_numbers_worked_out_by_hand_and_is_not_selected() -> None:
    levels = [torch.tensor([row]) for row in ([0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.9, 0.1, 0.0])]
    for weights in ((1 / 3, 1 / 3, 1 / 3), (1, 1, 1), torch.ones(3)):
        assert_close(fuse(*levels, weights), torch.tensor([[0.7, 0.2, 0.1]]))
    assert fuse(*levels, (1, 1, 1)).max() < 0.75


def class_max_in_loops(features: Tensor, bank: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """As the release: one pair of image and slot at a time."""
    rows = []
    for feature in features:
        best = [0.0] * num_classes
        for stored, label in zip(bank, labels.tolist(), strict=True):
            best[label] = max(best[label], float(feature @ stored))
        rows.append(best)
    return torch.tensor(rows).softmax(dim=1)


@pytest.mark.parametrize("classes", [3, 7])  # with 7 some have no slot
def test_class_max_is_the_double_loop(classes: int) -> None:
    features, bank = unit(1, 12), unit(2, 25)
    labels = torch.randint(3, (25,), generator=torch.Generator().manual_seed(3)) * (classes // 3)
    found = class_max_scores(features, bank, labels, classes).softmax(dim=1)
    assert_close(found, class_max_in_loops(features, bank, labels, classes), rtol=0, atol=1e-6)
    assert found.std() > 0.01


def knn_in_loops(features: Tensor, bank: Tensor, targets: Tensor, tau: float, k: int | None) -> Tensor:
    rows = []
    for feature in features:
        cosines = sorted(((float(feature @ stored), j) for j, stored in enumerate(bank)), reverse=True)[:k]
        total = sum(math.exp(c / tau) for c, _ in cosines)
        rows.append(sum(math.exp(c / tau) / total * targets[j] for c, j in cosines))
    return torch.stack(rows)


@pytest.mark.parametrize("neighbors", [None, 1, 4, 9, 50])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_softmax_knn_is_the_loop(neighbors: int | None, tau: float) -> None:
    features, bank, targets = unit(1, 5), unit(2, 9), rows_of_probs(3, 9)
    found = softmax_knn_probability(features, bank, targets, tau, neighbors)
    assert_close(found, knn_in_loops(features, bank, targets, tau, neighbors), **EXACT)
    if neighbors in (1, 4):
        assert not torch.allclose(found, softmax_knn_probability(features, bank, targets, tau))


# --- invariants 1 to 7 ---


def all_levels(seed: int = 0) -> list[Tensor]:
    features, bank = unit(seed, 5), unit(seed + 1, 9)
    labels = torch.arange(9) % 3
    return [
        rows_of_probs(seed),
        Levels(0.1, 0.1, "softmax_knn", None).text_scores(features, unit(seed + 2, 3)).softmax(dim=1),
        class_max_scores(features, bank, labels, 3).softmax(dim=1),
        softmax_knn_probability(features, bank, F.one_hot(labels).float(), 0.1),
        softmax_knn_probability(features, bank, rows_of_probs(seed, 9), 0.1, 3),
    ]


@pytest.mark.parametrize("weights", [(0.5, -0.1, 0.6), (0.0, 0.0, 0.0)])
def test_weights_that_are_none_are_refused(weights: tuple[float, float, float]) -> None:
    sem, text, ins, *_ = all_levels()
    with pytest.raises(ValueError, match="must not be negative and not all zero"):
        fuse(sem, text, ins, weights)


@pytest.mark.parametrize("rule", ["class_max", "softmax_knn"])
@pytest.mark.parametrize("neighbors", [None, 3])
def test_order_of_slots_and_unfilled_slots_change_nothing(rule: str, neighbors: int | None) -> None:
    levels = Levels(0.1, 0.1, rule, neighbors)
    features, bank, targets = unit(0, 5), unit(1, 9), F.one_hot(torch.arange(9) % 3).float()
    plain = levels.instance(features, bank, targets)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert_close(levels.instance(features, bank[order], targets[order]), plain)
    more = torch.cat([bank, features]), torch.cat([targets, torch.eye(3)[[0, 0, 0, 0, 0]]])  # the queries themselves
    filled = torch.arange(14) < 9
    assert_close(levels.instance(features, *more, filled), plain)
    assert not torch.allclose(levels.instance(features, *more), plain)


# --- memory: invariants 8 and 9 ---


def test_writing_touches_exactly_its_slots_and_keeps_no_gradient() -> None:
    memory = InstanceMemory(6, 2, 4, 3)
    memory.write(torch.arange(6), unit(1, 6, 4), torch.arange(6) % 3)
    before = copy.deepcopy(memory.state_dict())
    new = unit(2, 2, 4).requires_grad_()
    memory.write(torch.tensor([4, 1]), new, torch.tensor([2, 0]))
    changed = (memory.features != before["features"]).any(dim=1).tolist()
    assert changed == [False, True, False, False, True, False, False, False]
    assert torch.equal(memory.features[[4, 1]], new.detach())
    assert memory.targets.argmax(dim=1)[:6].tolist() == [0, 0, 2, 0, 2, 2]
    assert memory.targets[:6].sum(dim=1).tolist() == [1] * 6 and set(memory.targets.flatten().tolist()) == {0, 1}
    assert memory.filled.tolist() == [True] * 6 + [False] * 2
    assert not memory.features.requires_grad
    assert_close(memory.features[:6].norm(dim=1), torch.ones(6))


def test_the_ring_keeps_the_latest_unlabeled_images() -> None:
    memory = InstanceMemory(2, 3, 4, 3)
    rows = unit(1, 9, 4)
    soft = rows_of_probs(1, 9)
    for first, last, expected in ((0, 2, [0, 1]), (2, 2, [0, 1]), (2, 4, [3, 1, 2]), (4, 9, [8, 6, 7])):
        memory.push(rows[first:last], soft[first:last])
        assert torch.equal(memory.features[2:][memory.filled[2:]], rows[expected])
        assert torch.equal(memory.targets[2:][memory.filled[2:]], soft[expected])
    assert not memory.filled[:2].any() and memory.position.item() in (0, 1, 2)


def test_the_memory_counts_when_every_labeled_image_is_in_it() -> None:
    """Invariant 9, with lazy filling: until then its weight is 0 and the others are renormalised."""
    method = method_of(memory={"init": "lazy", "refresh": False, "start_epoch": 0}, weights={"training": [3, 2, 5]})
    share = 0.0
    for step, index in enumerate(torch.arange(LABELED).split(4)):
        assert method.weights_now().tolist() == [3, 2, 0]
        assert method.eval_module().weights == (1, 1, 0) and len(method.eval_module().bank) == 0
        batch = batch_of(step, n_lb=len(index)) | {"idx_lb": index}
        before = method.memory.filled.sum()
        method(batch)
        assert method.memory.filled.sum() == before  # known from the next step on
        method.after_step(step)
        share = method.memory.filled[:LABELED].float().mean().item()
    assert share == 1
    assert method.weights_now().tolist() == [3, 2, 5]
    assert method.eval_module().weights == (1, 1, 1) and len(method.eval_module().bank) == LABELED


def test_the_memory_waits_for_its_epoch() -> None:
    method = method_of(memory={"start_epoch": 2}, weights={"before": [0.6, 0.4, 0], "training": [0.3, 0.2, 0.5]})
    found = []
    for epoch in range(4):  # 0: before training, and what holds in epoch 1
        method.labeled_pass(epoch, all_labeled())
        found.append([round(w, 6) for w in method.weights_now().tolist()])
    assert found == [[0.6, 0.4, 0], [0.6, 0.4, 0], [0.3, 0.2, 0.5], [0.3, 0.2, 0.5]]


def test_a_step_stores_features_of_the_training_pass_under_the_labels() -> None:
    method, batch = method_of(), batch_of(1)
    method(batch)
    features = method.student(batch["x_lb"])[1]
    method.after_step(0)
    assert_close(method.memory.features[batch["idx_lb"]], features.detach(), **EXACT)
    assert torch.equal(method.memory.targets[batch["idx_lb"]].argmax(dim=1), batch["y_lb"])
    assert method.memory.filled.sum() == 4
    method.after_step(1)  # nothing new
    assert method.memory.filled.sum() == 4


@pytest.mark.parametrize(("init", "filled"), [("pass", LABELED), ("lazy", 0)])
def test_the_first_pass_fills_the_memory_unless_lazy(init: str, filled: int) -> None:
    method = method_of(memory={"init": init}, dropout=0.9).train()
    method.labeled_pass(0, all_labeled())
    assert method.memory.filled.sum() == filled
    assert method.student.training
    if filled:
        expected = torch.cat([method.eval().student(b["x_lb"])[1] for b in all_labeled()])  # no dropout
        assert_close(method.memory.features, expected.detach(), **EXACT)
        assert method.memory.targets.sum(dim=0).tolist() == list(COUNTS)


@pytest.mark.parametrize("refresh", [True, False])
def test_evaluation_sees_refreshed_features_or_those_of_training(refresh: bool) -> None:
    method = method_of(memory={"refresh": refresh})
    method.labeled_pass(0, all_labeled())
    before = method.memory.features.clone()
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    method.labeled_pass(1, all_labeled())
    assert torch.equal(method.memory.features, before) != refresh


@pytest.mark.parametrize("slots", [4, 8])
def test_unlabeled_slots_take_confident_faces_in_the_order_of_their_index(slots: int) -> None:
    method, batch = in_use(memory={"unlabeled_slots": slots}), batch_of(3, n_ulb=10)
    threshold = half_kept(method, batch)
    with torch.no_grad():
        logits, weak = method.student(batch["x_ulb_w"])
    probs = method.label_probs(logits, weak, method.text())
    kept = [i for i in batch["idx_ulb"].argsort().tolist() if probs[i].max() > threshold]
    assert len(kept) == 5
    method(batch)
    method.after_step(0)
    n = min(5, slots)
    assert method.memory.filled[LABELED:].sum() == n
    assert_close(method.memory.features[LABELED:][:n], weak[kept[-n:]], **EXACT)
    assert_close(method.memory.targets[LABELED:][:n], probs[kept[-n:]].detach(), **EXACT)
    assert method.eval_module().bank.shape[0] == LABELED + n


# --- the loss ---


def loss_in_loops(method: SITFER, batch: Batch) -> dict[str, float]:
    """Section 5, one image at a time, by default or as the release."""
    p, out = method.settings, {"labeled": 0.0, "text": 0.0, "unlabeled": 0.0, "kept": 0.0}
    matrix = method.text()
    weights = [w / sum(method.weights_now().tolist()) for w in method.weights_now().tolist()]
    for x, y in zip(batch["x_lb"], batch["y_lb"], strict=True):
        z, f = (t[0] for t in method.student(x[None]))
        g = f if isinstance(method.projection, nn.Identity) else F.normalize(method.projection(f), dim=0)
        out["labeled"] -= z.log_softmax(dim=0)[y].item() / len(batch["x_lb"])
        out["text"] -= (matrix @ g / p.text.tau).log_softmax(dim=0)[y].item() / len(batch["x_lb"])
    for weak, strong in zip(batch["x_ulb_w"], batch["x_ulb_s"], strict=True):
        z, f = (t[0] for t in method.student(weak[None]))
        g = f if isinstance(method.projection, nn.Identity) else F.normalize(method.projection(f), dim=0)
        text = matrix @ g / p.text.tau
        own = method.memory.features[method.memory.filled], method.memory.targets[method.memory.filled]
        if p.fusion == "scores":
            best = [max([0.0, *(float(f @ s) for s, t in zip(*own, strict=True) if t[c])]) for c in range(CLASSES)]
            scores = weights[0] * z + weights[1] * text + weights[2] * torch.tensor(best)
            probs = scores.softmax(dim=0)
        else:
            ins = knn_in_loops(f[None], *own, p.memory.tau, p.memory.neighbors)[0]
            probs = weights[0] * z.softmax(dim=0) + weights[1] * text.softmax(dim=0) + weights[2] * ins
        if probs.max() > p.threshold:
            out["kept"] += 1
            z = method.student(strong[None])[0][0]
            out["unlabeled"] -= z.log_softmax(dim=0)[probs.argmax()].item()
    out["unlabeled"] /= max(out["kept"], 1) if p.lu_norm == "selected" else len(batch["x_ulb_w"])
    return out


RELEASE = {
    "fusion": "scores",
    "classifier_input": "unit",
    "weights": {"before": [0.6, 0.4, 0], "training": [0.3, 0.2, 0.5], "test": [0.3, 0.2, 0.5]},
    "memory": {"rule": "class_max"},
    "text": {"encoder": "frozen_random", "tau": 1.0},
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lu_norm": "batch"},
        {"text": {"width": 24}},
        {"memory": {"neighbors": 2, "tau": 0.5}},
        {"lambda_s": 1.0, "lambda_t": 0.25, "lambda_u": 3.0},
        RELEASE,
    ],
    ids=["default", "batch", "projection", "neighbors", "weights", "authors_code"],
)
def test_the_loss_is_that_of_the_loops(changes: dict[str, Any]) -> None:
    method, batch = in_use(**changes), batch_of(1, n_ulb=8)
    half_kept(method, batch)
    out, p = method(batch), method.settings
    with torch.no_grad():
        expected = loss_in_loops(method, batch)
    assert expected["kept"] == 4
    assert out["labeled_loss"].item() == pytest.approx(expected["labeled"], rel=1e-4)
    assert out["text_loss"].item() == pytest.approx(expected["text"], rel=1e-4)
    assert out["unlabeled_loss"].item() == pytest.approx(expected["unlabeled"], rel=1e-4)
    assert out["util_ratio"].item() == pytest.approx(expected["kept"] / 8)
    total = p.lambda_s * expected["labeled"] + p.lambda_t * expected["text"] + p.lambda_u * expected["unlabeled"]
    assert out["loss"].item() == pytest.approx(total, rel=1e-4)
    assert {k for k, v in out.items() if v.requires_grad} == {"loss"}


def contrast_in_loops(method: SITFER, batch: Batch) -> float:
    """Khosla et al. 2020, equation 2, one image and slot at a time; soft labels of slots count by their share."""
    memory, total = method.memory, 0.0
    features = method.student(batch["x_lb"])[1]
    for f, y, own in zip(features, batch["y_lb"].tolist(), batch["idx_lb"].tolist(), strict=True):
        slots = [j for j, filled in enumerate(memory.filled.tolist()) if filled and j != own]
        scores = {j: float(f @ memory.features[j]) / method.settings.memory.contrastive_tau for j in slots}
        norm = math.log(sum(math.exp(score) for score in scores.values()))
        weights = {j: float(memory.targets[j, y]) for j in slots}
        if any(weights.values()):
            total -= sum(w * (scores[j] - norm) for j, w in weights.items()) / sum(weights.values())
    return total / len(features)


@pytest.mark.parametrize("slots", [0, 4])
def test_the_contrast_is_that_of_the_loops_and_is_added_to_the_loss(slots: int) -> None:
    memory = {"unlabeled_slots": slots, "contrastive_tau": 0.5}
    with_it, without = in_use(lambda_c=0.7, memory=memory), in_use(memory=memory)
    batch = batch_of(1)
    if slots:
        for method in (with_it, without):
            method.memory.push(unit(5, 3, method.memory.features.shape[1]), rows_of_probs(6, 3))
    out, plain = with_it(batch), without(batch)
    with torch.no_grad():
        expected = contrast_in_loops(with_it, batch)
    assert out["contrastive_loss"].item() == pytest.approx(expected, rel=1e-4)
    assert out["loss"].item() == pytest.approx(plain["loss"].item() + 0.7 * expected, rel=1e-5)
    assert "contrastive_loss" not in plain


def test_the_contrast_of_an_empty_memory_is_none() -> None:
    method, batch = method_of(lambda_c=1.0, memory={"init": "lazy"}).train(), batch_of(2)
    out = method(batch)
    assert out["contrastive_loss"] == 0
    out["loss"].backward()
    assert all(torch.isfinite(g).all() for g in gradients(method).values())


def test_the_contrast_brings_faces_to_those_of_their_class() -> None:
    def likeness(method: SITFER) -> float:
        """Mean cosine within classes less that between them."""
        method.memory.fill(method.student, all_labeled())
        cosines = method.memory.features @ method.memory.features.T
        alike = method.memory.targets @ method.memory.targets.T > 0
        apart = ~torch.eye(LABELED, dtype=torch.bool)
        return float(cosines[alike & apart].mean() - cosines[~alike].mean())

    method = in_use()
    before = likeness(method)
    method.settings = method.settings.model_copy(
        update={"lambda_s": 0.0, "lambda_t": 0.0, "lambda_u": 0.0, "lambda_c": 1.0}
    )
    optimizer = adamw(param_groups(method, 0.0), 1e-2)
    parts = list(all_labeled())
    batch = batch_of(0, n_ulb=2) | {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    for step in range(30):
        method(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        method.memory.after_step(step)
    assert likeness(method) > before + 0.5


def test_nothing_selected_leaves_the_labeled_losses() -> None:
    """Invariant 13."""
    method, batch = in_use(threshold=1.0), batch_of(2)
    batch["x_ulb_s"].requires_grad_()
    out = method(batch)
    assert out["unlabeled_loss"].item() == 0 and out["util_ratio"].item() == 0
    assert out["loss"].item() == pytest.approx(0.4 * out["labeled_loss"].item() + 0.4 * out["text_loss"].item())
    out["loss"].backward()
    assert not batch["x_ulb_s"].grad.any()


@pytest.mark.parametrize("switch", ["distribution_alignment", "class_thresholds", "logit_adjustment"])
def test_corrections_of_imbalance_act_on_the_mixture_and_the_cross_entropies(switch: str) -> None:
    off = {"distribution_alignment": False, "class_thresholds": False, "logit_adjustment": 0.0}
    population, batch = Population(COUNTS, 20, classes=factory.CLASSES), batch_of(1, n_ulb=8)
    on = ImbalanceSettings(**off | {switch: 1.5 if switch == "logit_adjustment" else True})
    method = SITFER(Context(network(), settings(lambda_t=0.0), population, on))
    threshold = half_kept(method, batch)
    with torch.no_grad():
        probs = method.label_probs(*method.student(batch["x_ulb_w"]), method.text())
        labeled, strong = (method.student(batch[k])[0] for k in ("x_lb", "x_ulb_s"))
    prior = torch.tensor(COUNTS) / LABELED
    shift = torch.zeros(3)
    if switch == "distribution_alignment":
        method.imbalance.means[:] = torch.tensor([0.05, 0.15, 0.8])
        probs = align_distribution(probs, prior, torch.tensor([0.05, 0.15, 0.8]))
    if switch == "logit_adjustment":
        shift = 1.5 * prior.log()
    kept = probs.max(dim=1).values > (0 if switch == "class_thresholds" else threshold)
    out = method(batch)
    assert out["util_ratio"].item() == pytest.approx(kept.float().mean().item())
    assert_close(out["labeled_loss"], F.cross_entropy(labeled + shift, batch["y_lb"]), **EXACT)
    expected = F.cross_entropy((strong + shift)[kept], probs.argmax(dim=1)[kept])
    assert_close(out["unlabeled_loss"], expected, rtol=1e-4, atol=1e-6)
    method.after_step(0)
    if switch == "class_thresholds":
        assert method.imbalance.confident.tolist() != [20, 0, 0, 0]  # thresholds follow from the next step on


# --- gradients: invariants 11 and 14 ---


def losses_of(method: SITFER, batch: Batch, **keep: float) -> dict[str, Tensor]:
    """Gradients of one part of the loss alone."""
    weights = {"lambda_s": 0.0, "lambda_t": 0.0, "lambda_u": 0.0, "lambda_c": 0.0} | keep
    method.settings = method.settings.model_copy(update=weights)
    method.zero_grad()
    method(batch)["loss"].backward()
    return gradients(method)


def test_each_loss_reaches_what_it_should_and_nothing_else() -> None:
    method, batch = in_use(threshold=0.0, text={"width": 24}), batch_of(6)
    losses = ("lambda_s", "lambda_t", "lambda_u", "lambda_c")
    reached = {name: set(losses_of(method, batch, **{name: 1.0})) for name in losses}
    student = {f"student.{n}" for n, _ in method.student.named_parameters()}
    head = {n for n in student if ".head." in n}
    text = {f"text.{n}" for n, _ in method.text.named_parameters()}
    assert reached["lambda_s"] == reached["lambda_u"] == student
    assert reached["lambda_c"] == student - head
    assert reached["lambda_t"] == (student - head) | text | {"projection.weight"}


def train_a_little(method: SITFER, steps: int = 3, **weights: float) -> None:
    method.settings = method.settings.model_copy(update=weights)
    optimizer = adamw(param_groups(method, 0.0), 1e-2)
    for step in range(steps):
        method(batch_of(step))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step)


@pytest.mark.parametrize("encoder", ["prototype", "frozen_random", "learned"])
def test_a_frozen_encoder_stays_and_a_learned_one_moves(encoder: str) -> None:
    method = in_use(text={"encoder": encoder})
    before = method.text().detach().clone()
    assert bool(list(method.text.parameters())) == (encoder == "learned")
    train_a_little(method)
    assert torch.equal(method.text(), before) == (encoder != "learned")


# --- settings: both ways ---


def test_the_classifier_sees_unit_or_scaled_features() -> None:
    unit_net, scaled = (method_of(classifier_input=kind).student for kind in ("unit", "scaled"))
    x = images(1, 4)
    (z, f), (zs, fs) = unit_net(x), scaled(x)
    assert torch.equal(f, fs)
    assert_close(f.norm(dim=1), torch.ones(4))
    assert_close(z, F.linear(f, unit_net.head.weight, unit_net.head.bias))
    assert_close(zs, F.linear(4 * f, scaled.head.weight, scaled.head.bias))  # sqrt(16)
    raw = unit_net.body.forward_features(x)[:, 0]
    assert_close(f, raw / raw.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("eval_mode", [True, False])
def test_pseudo_labels_see_dropout_unless_told_otherwise(eval_mode: bool) -> None:
    method, weak = method_of(dropout=0.5, pseudo_eval_mode=eval_mode).train(), images(1, 4)
    asked: list[bool] = []
    unseen = method.student.unseen
    method.student.unseen = lambda x, mode: asked.append(mode) or unseen(x, mode)  # type: ignore[method-assign,func-returns-value]
    method(batch_of())
    assert asked == [eval_mode]
    torch.manual_seed(0)
    first, second = (method.student.unseen(weak, eval_mode) for _ in range(2))
    assert torch.equal(first[1], second[1]) == eval_mode
    assert method.student.training and method.student.dropout.training
    assert not first[1].requires_grad
    assert (first[1] == 0).any() != eval_mode


def test_the_running_average_is_exported_with_a_memory_of_its_own() -> None:
    method = in_use()
    assert set(method.networks()) == {"student"}
    method.keep_average(0.5)
    old = {k: v.clone() for k, v in method.student.state_dict().items()}
    train_a_little(method, steps=1)
    new = method.student.state_dict()
    fused = method.networks()["average"]
    for name, value in fused.network.state_dict().items():
        assert_close(value, 0.5 * old[name] + 0.5 * new[name])
    assert not fused.training and method.eval_module().network is method.student
    method.labeled_pass(3, all_labeled())
    for name, memory in (("average", method.average_memory), ("student", method.memory)):
        network = method.networks()[name].eval()
        expected = torch.cat([network.network(b["x_lb"])[1] for b in all_labeled()]).detach()
        assert_close(memory.features, expected, **EXACT)
        assert torch.equal(network.bank, memory.features)


def test_the_text_encoder_has_its_own_learning_rate() -> None:
    method = method_of(text={"lr_scale": 0.25, "width": 24})
    groups = param_groups(method, 0.05)
    scaled = {id(p) for g in groups if g.get("lr_scale") == 0.25 for p in g["params"]}
    own = {id(p) for module in (method.text, method.projection) for p in module.parameters()}
    assert scaled == own
    found = [id(p) for g in groups for p in g["params"]]
    assert sorted(found) == sorted(id(p) for p in method.parameters())
    assert all("lr_scale" not in g for g in param_groups(method_of(), 0.05))


def test_thresholds_compare_as_told() -> None:
    for op in ("gt", "ge"):
        method = method_of(threshold=0.5, threshold_op=op, weights={"before": [1, 0, 0]})
        method.label_probs = lambda *_: torch.tensor([[0.5, 0.25, 0.25]]).expand(6, 3)  # type: ignore[method-assign]
        assert method(batch_of())["util_ratio"].item() == (op == "ge")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": "scores"}, "fusion scores needs memory.rule class_max"),
        ({"weights": {"before": [0, 0, 0]}}, "the semantic or the text weight must be above 0"),
        ({"weights": {"training": [0, 0, 1]}}, "the semantic or the text weight must be above 0"),
        ({"weights": {"before": [1, 1, 1]}}, "the instance weight of 'before' must be 0"),
        ({"text": {"width": 10, "heads": 4}}, "width 10 must be a multiple of heads 4"),
        ({"text": {"encoder": "open_clip"}}, "encoder open_clip needs clip_weights and clip_sha256"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SsferError, match=f"(?s)methods.sitfer.*{message}|{message}"):
        shipped = factory.tiny_params().methods["sitfer"].model_dump()
        factory.tiny_params(methods={"sitfer": merged(shipped, changes)})


def test_what_the_method_has_to_know_is_demanded() -> None:
    assert isinstance(built("sitfer", network(), Population(COUNTS, 20, classes=factory.CLASSES)), SITFER)
    with pytest.raises(ValueError, match="needs the labeled images per class"):
        built("sitfer", network())
    with pytest.raises(SsferError, match=r"memory needs a labeled image of every class, found counts \[4, 0, 3\]"):
        built("sitfer", network(), Population((4, 0, 3), 20, classes=factory.CLASSES))
    with pytest.raises(SsferError, match="class names are needed"):
        built("sitfer", network(), Population(COUNTS, 20))


# --- what is evaluated ---


def test_the_fused_classifier_is_the_mixture_of_the_three_levels() -> None:
    method = in_use(weights={"test": [0.3, 0.2, 0.5]}, text={"width": 24})
    fused, x = method.eval_module().eval(), images(3, 5)
    assert isinstance(fused, FusedClassifier) and method.networks().keys() == {"student"}
    logits, f = method.eval().student(x)
    g = F.normalize(method.projection(f), dim=1)
    text = (g @ method.text().T / 0.1).softmax(dim=1)
    ins = knn_in_loops(f.detach(), method.memory.features, method.memory.targets, 0.1, None)
    expected = 0.3 * logits.softmax(dim=1) + 0.2 * text + 0.5 * ins
    assert_close(fused(x).softmax(dim=1), expected, rtol=1e-4, atol=1e-6)
    assert_close(fused(x).exp().sum(dim=1), torch.ones(5))
    parts = fused.parts()
    assert list(parts) == ["semantic", "text", "instance"]
    for part, probs in zip(parts.values(), (logits.softmax(dim=1), text, ins), strict=True):
        assert_close(part(x).softmax(dim=1), probs, rtol=1e-4, atol=1e-6)
    assert fused.weights == (0.3, 0.2, 0.5)  # its parts have their own


def test_the_fused_classifier_is_a_copy_of_sentences_and_memory() -> None:
    method = in_use()
    fused, x = method.eval_module().eval(), images(3, 5)
    before = fused(x)
    method.memory.features.zero_()
    with torch.no_grad():
        method.text.positions.add_(1.0)
    assert torch.equal(fused(x), before)


def test_a_certain_mixture_has_finite_logits_and_gradient() -> None:
    method = in_use(weights={"test": [1, 0, 0]})
    with torch.no_grad():
        method.student.head.weight.mul_(1e4)
    x = images(3, 5).requires_grad_()
    logits = method.eval_module().eval()(x)
    F.cross_entropy(logits, torch.zeros(5, dtype=torch.int64)).backward()
    assert torch.isfinite(logits).all() and torch.isfinite(x.grad).all()


def test_a_fused_classifier_is_built_again_from_its_settings() -> None:
    method = in_use(text={"width": 24}, memory={"rule": "class_max", "unlabeled_slots": 3}, weights={"test": [1, 2, 3]})
    fused = method.eval_module().eval()
    again = FusedClassifier.build(network(seed=5), fused.settings())
    again.load_state_dict(fused.state_dict())
    assert torch.equal(again.eval()(images(3, 5)), fused(images(3, 5)))


def test_grad_cam_finds_the_body() -> None:
    fused = in_use().eval_module()
    assert body_of(fused) is fused.network.body and body_of(fused.network.body) is fused.network.body
    assert isinstance(fused.network, UnitFeatures)


# --- the loop ---


class Looker(Method):
    """Notes what it is shown between epochs; half of its network learns slowly."""

    labeled_pass_views = "eval"
    lr_scales = MappingProxyType({"student.slow": 0.125})

    def __init__(self) -> None:
        super().__init__(nn.ModuleDict({"slow": nn.Linear(1, 1), "fast": nn.Linear(1, 1)}))
        self.seen: list[tuple[int, list[int], list[int]]] = []

    def forward(self, batch: Any) -> Batch:
        return {"loss": sum(p.sum() for p in self.parameters())}  # type: ignore[dict-item]

    def labeled_pass(self, epoch: int, labeled: Any) -> None:
        parts = list(labeled)
        assert all(part["x_lb"].shape[1:] == (3, 16, 16) for part in parts)
        self.seen.append((epoch, *(torch.cat([p[k] for p in parts]).tolist() for k in ("idx_lb", "y_lb"))))


def test_the_loop_shows_all_labeled_images_first_and_after_every_epoch(tmp_path: Path) -> None:
    p = factory.tiny_params(machine={"eval_batch_size": 6, "checkpoint_minutes": 1e9})
    factory.write_faces(tmp_path / "faces", "faces", [i % 3 for i in range(20)])
    dataset = FaceDataset([tmp_path / "faces"], classes=factory.CLASSES, cache_gib=1)
    method, machine, looks = Looker(), Machine(p.machine), []

    def evaluate(method: Method) -> dict[str, Any]:
        looks.append(len(method.seen))
        return {"val_accuracy": 0.5, "val_loss": 1.0}

    before = {name: value.clone() for name, value in method.state_dict().items()}
    fit_method(
        method, StepBatches([Stream("lb", dataset, 10, {"": Weak(16, 0.5)}, 1)], 2), p, tmp_path,
        lr_at=lambda epoch: 0.01, weight_decay=0.0, evaluate=evaluate,
        labeled_batches=lambda epoch: eval_batches(dataset, machine=machine, model=p.model),
    )  # fmt: skip
    assert method.seen == [(epoch, list(range(20)), dataset.labels.tolist()) for epoch in (0, 1, 2)]
    assert looks == [2, 3]  # the look comes before the evaluation
    moved = {name: (before[name] - value).abs().mean().item() for name, value in method.state_dict().items()}
    for kind in ("weight", "bias"):
        assert moved[f"student.slow.{kind}"] == pytest.approx(0.125 * moved[f"student.fast.{kind}"], rel=1e-3)
        assert moved[f"student.fast.{kind}"] == pytest.approx(4 * 0.01, rel=1e-3)  # AdamW's steps, four of them
