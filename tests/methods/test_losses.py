"""Losses: the worked numbers and invariants of the SSFER specification (17, 18), slow loops as oracles."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssfer.methods.shared import losses
from ssfer.models.mae import masked_patch_mse

TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def random_batch(seed: int, b: int = 6, k: int = 7) -> Batch:
    """Return logits of the mixed and of the real images, labels and kappa, which partners share."""
    g = torch.Generator().manual_seed(seed)
    half = torch.rand(b // 2, generator=g)
    kappa = torch.cat([half, half.new_full((b % 2,), 0.5), half.flip(0)])
    labels = torch.randint(k, (b,), generator=g)
    return torch.randn(b, k, generator=g) * 2, torch.randn(b, k, generator=g) * 2, labels, kappa


def cross_entropy_by_hand(logits: list[float], target: list[float]) -> float:
    total = math.log(sum(math.exp(z) for z in logits))
    return -sum(t * (z - total) for t, z in zip(target, logits, strict=True))


def smoothed(label: int, k: int, smoothing: float) -> list[float]:
    return [1 - smoothing + smoothing / k if c == label else smoothing / k for c in range(k)]


def facemix_by_hand(batch: Batch, lam: float, smoothing: float, variant: str) -> float:
    mixed, real, labels, kappas = (t.tolist() for t in batch)
    b, k, total = len(labels), len(mixed[0]), 0.0
    for i in range(b):
        j = b - 1 - i
        own, other = smoothed(labels[i], k, smoothing), smoothed(labels[j], k, smoothing)
        v = cross_entropy_by_hand(mixed[i], [lam * p + (1 - lam) * q for p, q in zip(own, other, strict=True)])
        ri, rj = (cross_entropy_by_hand(real[n], smoothed(labels[n], k, 0.0)) for n in (i, j))
        kappa = kappas[i]
        total += {
            "L1": (1 - kappa) * v + ri + rj,
            "L2": v + (1 - kappa) * (ri + rj),
            "L3": kappa * v + ri + rj,
            "L4": v + kappa * (ri + rj),
        }[variant]
    return total / b


# --- targets and mixing ---


def test_smoothed_targets_have_the_worked_values() -> None:
    target = losses.smooth_one_hot(torch.tensor([2]), 7, 0.1)
    expected = torch.full((1, 7), 0.0142857143)
    expected[0, 2] = 0.9142857143
    assert_close(target, expected, rtol=0, atol=1e-7)


def test_mixed_targets_have_the_worked_values() -> None:
    target = losses.mixed_target(torch.tensor([0, 3]), 7, 0.3, 0.1)
    expected = torch.full((2, 7), 0.0142857143)
    expected[0, 0] = expected[1, 3] = 0.2842857
    expected[0, 3] = expected[1, 0] = 0.6442857
    assert_close(target, expected, rtol=0, atol=1e-6)


def test_mixing_weighs_each_image_against_the_one_at_the_mirrored_place() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    mixed = losses.mix_images(images, 0.25)[:, 0, 0, 0]
    # 0.25 i + 0.75 (3 - i)
    assert_close(mixed, torch.tensor([2.25, 1.75, 1.25, 0.75]), **TOLERANCE)


def test_soft_cross_entropy_agrees_with_the_loop() -> None:
    logits, _, labels, _ = random_batch(5)
    target = losses.mixed_target(labels, 7, 0.4, 0.1)
    by_hand = [cross_entropy_by_hand(z, t) for z, t in zip(logits.tolist(), target.tolist(), strict=True)]
    assert_close(losses.soft_cross_entropy(logits, target), torch.tensor(by_hand), **TOLERANCE)


# --- FaceMix ---


@pytest.mark.parametrize(
    ("variant", "expected"), [("L1", 1.8510848), ("L2", 1.8884944), ("L3", 1.5489152), ("L4", 1.6115056)]
)
def test_facemix_variants_have_the_worked_values(variant: str, expected: float) -> None:
    # Two classes, logits (a, 0) and label 0 give cross-entropy c for a = -log(e^c - 1): Lv 1.2, Li 0.7, Lj 0.4.
    logits = {c: [-math.log(math.exp(c) - 1), 0.0] for c in (1.2, 0.7, 0.4)}
    loss = losses.facemix_loss(
        torch.tensor([logits[1.2], logits[1.2]]),
        torch.tensor([logits[0.7], logits[0.4]]),
        torch.tensor([0, 0]),
        1.0,
        torch.full((2,), 0.3740959895),
        label_smoothing=0.0,
        variant=variant,
    )
    assert loss.item() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("variant", losses.VARIANTS)
@pytest.mark.parametrize("lam", [0.0, 0.37, 1.0])
def test_facemix_agrees_with_the_loop(variant: str, lam: float) -> None:
    batch = random_batch(7)
    loss = losses.facemix_loss(*batch[:3], lam, batch[3], 0.1, variant)
    assert loss.item() == pytest.approx(facemix_by_hand(batch, lam, 0.1, variant), rel=1e-5)


def test_facemix_sends_gradient_to_both_logits() -> None:
    mixed, real, labels, kappa = random_batch(12)
    for tensor in (mixed, real):
        tensor.requires_grad_()
    losses.facemix_loss(mixed, real, labels, 0.2, kappa).backward()
    assert mixed.grad.abs().sum() > 0
    assert real.grad.abs().sum() > 0


def test_facemix_rejects_an_odd_batch() -> None:
    mixed, real, labels, kappa = random_batch(13, b=5)
    with pytest.raises(ValueError, match="even size, found 5"):
        losses.facemix_loss(mixed, real, labels, 0.2, kappa)


def test_facemix_names_the_known_variants() -> None:
    mixed, real, labels, kappa = random_batch(14)
    with pytest.raises(ValueError, match=r"unknown FaceMix variant 'L5'.*L1, L2, L3, L4"):
        losses.facemix_loss(mixed, real, labels, 0.2, kappa, variant="L5")


# --- pseudo-labels ---


@pytest.mark.parametrize(("op", "kept"), [("gt", [0.0, 0.0, 1.0]), ("ge", [0.0, 1.0, 1.0])])
def test_confidence_equal_to_the_threshold_passes_only_with_ge(op: str, kept: list[float]) -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.75, 0.15], [0.05, 0.05, 0.9]])
    mask, target = losses.confidence_mask(probs, 0.75, op)
    assert mask.tolist() == kept
    assert target.tolist() == [0, 1, 2]


def test_confidence_mask_carries_no_gradient() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask, target = losses.confidence_mask(logits.softmax(dim=1), 0.3)
    assert not mask.requires_grad
    assert not target.requires_grad


def test_masked_cross_entropy_divides_by_the_batch_and_not_by_the_kept() -> None:
    logits, _, target, _ = random_batch(15, b=8)
    mask = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1])
    by_hand = 0.0
    for i in range(8):
        if mask[i] > 0:
            by_hand += cross_entropy_by_hand(logits[i].tolist(), smoothed(int(target[i]), 7, 0.0))
    assert losses.masked_cross_entropy(logits, target, mask).item() == pytest.approx(by_hand / 8, rel=1e-5)


def test_masked_cross_entropy_of_nothing_kept_is_exactly_zero_with_zero_gradient() -> None:
    logits, _, target, _ = random_batch(17)
    logits.requires_grad_()
    loss = losses.masked_cross_entropy(logits, target, torch.zeros(6))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


# --- masked patches ---


def test_masked_patch_mse_agrees_with_the_loop() -> None:
    g = torch.Generator().manual_seed(18)
    pred, target = torch.randn(2, 5, 12, generator=g), torch.randn(2, 5, 12, generator=g)
    mask = torch.tensor([[1.0, 0, 1, 1, 0], [0, 0, 1, 1, 1]])
    total, count = 0.0, 0
    for b in range(2):
        for n in range(5):
            if mask[b, n] == 1:
                total += sum((float(pred[b, n, i]) - float(target[b, n, i])) ** 2 for i in range(12)) / 12
                count += 1
    assert masked_patch_mse(pred, target, mask).item() == pytest.approx(total / count, rel=1e-5)


def test_masked_patch_mse_ignores_visible_patches() -> None:
    g = torch.Generator().manual_seed(19)
    pred, target = torch.randn(2, 4, 3, generator=g).requires_grad_(), torch.randn(2, 4, 3, generator=g)
    mask = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0]])
    loss = masked_patch_mse(pred, target, mask)
    loss.backward()
    assert pred.grad[mask == 0].abs().max() == 0
    assert (pred.grad[mask == 1].abs() > 0).all()
    changed = torch.where(mask[:, :, None] == 0, pred + 100, pred)
    assert torch.equal(masked_patch_mse(changed, target, mask), loss)


def _calls() -> dict[str, Callable[[Batch], Tensor | tuple[Tensor, Tensor]]]:
    ones = torch.ones(6)
    return {
        "mixed_target": lambda b: losses.mixed_target(b[2], 7, 0.3, 0.1),
        "mix_images": lambda b: losses.mix_images(b[0], 0.3),
        "facemix_loss": lambda b: losses.facemix_loss(b[0], b[1], b[2], 0.3, b[3]),
        "confidence_mask": lambda b: losses.confidence_mask(b[0], 0.5),
        "masked_cross_entropy": lambda b: losses.masked_cross_entropy(b[0], b[2], ones),
        "masked_patch_mse": lambda b: masked_patch_mse(b[0][:, None], b[1][:, None], ones[:, None]),
    }


@pytest.mark.parametrize("name", sorted(_calls()))
def test_loss_functions_leave_their_inputs_unchanged(name: str) -> None:
    batch = random_batch(20)
    before = [t.clone() for t in batch]
    _calls()[name](batch)
    assert all(torch.equal(t, b) for t, b in zip(batch, before, strict=True))
