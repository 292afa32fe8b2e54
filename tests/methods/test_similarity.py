"""Similarity of images and FSIM: values of a known library, closed forms, and what kappa promises (spec 8, 18.4)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssfer.core.errors import SsferError
from ssfer.methods.shared.similarity import (
    IMAGE_KAPPAS,
    fsim,
    image_kappa,
    luminance,
    paired_iou,
    psnr,
    ssim,
)

TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
SIZES = [(32, 32), (48, 64), (384, 400)]  # FSIM halves the last


def picture(kind: int, height: int, width: int) -> Tensor:
    """Return waves in three colors with some fine structure, (3, H, W), 8-bit levels in 0..1; no random number."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    wave = np.sin(0.31 * (1 + kind) * x + 0.2 * c) * np.cos(0.17 * y - 0.11 * kind * x) + 0.4 * ((x * y + kind * y) % 7)
    return torch.from_numpy((110 + 45 * wave - 20 * c).clip(0, 255).round()).permute(2, 0, 1).float() / 255


def pairs(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return three pairs: strangers, one half mixed into the other, one slightly brighter than the other."""
    one, other = picture(0, height, width), picture(1, height, width)
    mixed, brighter = (0.5 * one + 0.5 * other), (one + 0.02).clamp(max=1)
    return torch.stack([one, one, one]), torch.stack([other, mixed, brighter])


# piq 0.8.0 (pip install --no-deps --target DIR piq==0.8.0), torch 2.14.1, printed by
#   PYTHONPATH=DIR:tests:. python -c "import piq, test_kappa as t
#   for size in t.SIZES:
#       a, b = t.pairs(*size)
#       for name, f in (('psnr', piq.psnr), ('ssim', piq.ssim), ('fsim', piq.fsim)):
#           more = {'ssim': {'downsample': False}, 'fsim': {'chromatic': False}}.get(name, {})
#           print(size, name, [round(v, 5) for v in f(a, b, reduction='none', **more).tolist()])"
# It adds 1e-8 to mean squared errors and has another epsilon in FSIM.
GOLDEN = {
    (32, 32): {
        "psnr": [12.69793, 18.71853, 33.99062],
        "ssim": [0.04726, 0.6638, 0.99922],
        "fsim": [0.79025, 0.86284, 0.99993],
    },
    (48, 64): {
        "psnr": [12.57969, 18.60029, 33.99462],
        "ssim": [0.08943, 0.68504, 0.99921],
        "fsim": [0.78666, 0.86684, 0.99993],
    },
    (384, 400): {
        "psnr": [12.55085, 18.57145, 33.99428],
        "ssim": [0.0906, 0.68565, 0.99922],
        "fsim": [0.78303, 0.8666, 0.99999],
    },
}


def batch(n: int = 6, size: int = 24, seed: int = 0) -> Tensor:
    """Return smooth random images (n, 3, S, S) that have something in common."""
    g = torch.Generator().manual_seed(seed)
    small = 0.5 * torch.rand(n, 3, 6, 6, generator=g) + 0.5 * torch.rand(3, 6, 6, generator=g)
    return torch.nn.functional.interpolate(small, (size, size), mode="bilinear")


# --- boxes ---


def random_boxes(seed: int, b: int = 6) -> Tensor:
    """Return boxes that overlap more or less."""
    g = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(b, 2, generator=g) * 60, 40 + torch.rand(b, 2, generator=g) * 60
    return torch.cat([corner, corner + side], dim=1)


def iou_by_hand(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((25, 25, 220, 220), (60, 40, 200, 210), 0.6259040105),
        ((0, 0, 100, 100), (50, 0, 150, 100), 1 / 3),
        ((0, 0, 10, 10), (20, 0, 30, 10), 0.0),  # apart in x
        ((0, 0, 10, 10), (0, 20, 10, 30), 0.0),  # apart in y
        ((0, 0, 10, 10), (20, 20, 30, 30), 0.0),  # apart in both: two negative sides must not make an area
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),  # touching
        ((3, 4, 9, 11), (3, 4, 9, 11), 1.0),
    ],
)
def test_paired_iou_has_the_worked_values_for_both_partners(first: tuple, second: tuple, expected: float) -> None:
    iou = paired_iou(torch.tensor([first, second]))
    assert_close(iou, torch.tensor([expected, expected]), rtol=0, atol=1e-6)


def test_paired_iou_agrees_with_the_loop_and_is_symmetric() -> None:
    boxes = random_boxes(0, b=40)
    iou = paired_iou(boxes)
    by_hand = [iou_by_hand(boxes[i].tolist(), boxes[39 - i].tolist()) for i in range(40)]
    assert 0.05 < sum(by_hand) / 40 < 0.95
    assert_close(iou, torch.tensor(by_hand), **TOLERANCE)
    assert torch.equal(iou, iou.flip(0))
    assert ((iou >= 0) & (iou <= 1)).all()


def test_paired_iou_carries_no_gradient_and_leaves_the_boxes_alone() -> None:
    boxes = random_boxes(2).requires_grad_()
    before = boxes.detach().clone()
    assert not paired_iou(boxes).requires_grad
    assert torch.equal(boxes.detach(), before)


# --- similarities of images ---


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("measure", "tolerance"), [("psnr", 3e-4), ("ssim", 2e-5), ("fsim", 3e-5)])
def test_similarities_are_those_of_piq(size: tuple[int, int], measure: str, tolerance: float) -> None:
    found = {"psnr": psnr, "ssim": ssim, "fsim": fsim}[measure](*pairs(*size))
    assert_close(found, torch.tensor(GOLDEN[size][measure]), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("difference", "expected"), [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0), (0.0, math.inf)])
def test_psnr_of_a_constant_difference(difference: float, expected: float) -> None:
    zeros = torch.zeros(2, 3, 8, 8)
    assert_close(psnr(zeros, zeros + difference), torch.full((2,), expected), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (0.2, 0.6), (0.5, 0.5), (0.0, 0.0)])
def test_ssim_of_constants_is_their_luminance_term(a: float, b: float) -> None:
    found = ssim(torch.full((1, 3, 16, 16), a), torch.full((1, 3, 16, 16), b))
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert found.item() == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_images_below_the_window_of_ssim_are_refused() -> None:
    assert ssim(*(p[:, :, :11, :11] for p in pairs(32, 32))).shape == (3,)
    with pytest.raises(SsferError, match="at least 11 px, found 10 px; choose another finetune.facemix.kappa"):
        image_kappa(torch.zeros(2, 3, 16, 10), "ssim")


# --- FSIM's parts ---


def test_luminance_weighs_the_colors() -> None:
    image = torch.tensor([1.0, 0.5, 0.25]).view(1, 3, 1, 1)
    assert luminance(image).item() == pytest.approx(255 * (0.299 + 0.587 * 0.5 + 0.114 * 0.25))


def test_fsim_of_featureless_images_is_one() -> None:
    assert_close(fsim(torch.full((1, 3, 32, 32), 0.2), torch.full((1, 3, 32, 32), 0.2)), torch.ones(1))
    assert torch.isfinite(fsim(torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32))).all()


# --- kappa ---


@pytest.mark.parametrize("measure", IMAGE_KAPPAS)
def test_kappa_is_symmetric_within_0_and_1_and_compares_mirrored_places(measure: str) -> None:
    images = batch()
    kappa = image_kappa(images, measure)
    assert kappa.shape == (6,)
    assert torch.equal(kappa, kappa.flip(0))
    assert ((kappa >= 0) & (kappa <= 1)).all()
    assert len(set(kappa.tolist())) == 3
    by_hand = [image_kappa(images[[i, 5 - i]], measure)[0] for i in range(6)]
    assert_close(kappa, torch.stack(by_hand), **TOLERANCE)


@pytest.mark.parametrize(("difference", "expected"), [(0.1, 0.6), (0.01, 0.2), (0.003, 0.0), (1.0, 1.0)])
def test_kappa_by_psnr_is_cut_at_50_db(difference: float, expected: float) -> None:
    images = torch.zeros(2, 3, 12, 12)
    images[1] = difference
    assert_close(image_kappa(images, "psnr"), torch.full((2,), expected), rtol=0, atol=1e-5)


def test_kappa_is_one_minus_similarity_and_negative_similarity_counts_as_none() -> None:
    one, other = picture(0, 32, 32), picture(1, 32, 32)
    assert image_kappa(torch.stack([one, 1 - one]), "ssim").tolist() == [1, 1]
    for measure, function in (("ssim", ssim), ("fsim", fsim)):
        expected = 1 - function(one[None], other[None])
        assert_close(image_kappa(torch.stack([one, other]), measure)[:1], expected, **TOLERANCE)


@pytest.mark.parametrize("measure", IMAGE_KAPPAS)
def test_kappa_carries_no_gradient_and_leaves_the_images_alone(measure: str) -> None:
    images = batch(4)
    before = images.clone()
    assert not image_kappa(images.requires_grad_(), measure).requires_grad
    assert torch.equal(images.detach(), before)


@pytest.mark.parametrize("measure", IMAGE_KAPPAS)
def test_kappa_is_computed_in_full_precision_under_autocast(measure: str) -> None:
    images = batch(4)
    expected = image_kappa(images, measure)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(image_kappa(images, measure), expected)


def test_an_odd_batch_and_an_unknown_measure_are_refused() -> None:
    with pytest.raises(ValueError, match="even size, found 5"):
        image_kappa(batch(5), "psnr")
    with pytest.raises(ValueError, match=r"unknown measure 'vif' \(known: psnr, ssim, fsim\)"):
        image_kappa(batch(4), "vif")
