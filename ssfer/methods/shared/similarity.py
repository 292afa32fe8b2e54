"""kappa, how much the two images of a FaceMix pair differ: overlap of faces, or one of three similarities of pixels.

The partner of sample i in a batch of B is sample B-1-i. kappa is 1 - similarity, in [0, 1], the same for both images
of a pair, and constant for the gradient. The SSFER paper compares the four (its Table 14) without giving formulas for
the last three; these are the ones of the specification, section 8. Images are floats (n, 3, H, W) with pixels in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssfer.core.errors import SsferError
from ssfer.methods.shared.fsim import fsim

IMAGE_KAPPAS = ("psnr", "ssim", "fsim")
HIGHEST_PSNR = 50.0  # dB; images at least this alike count as equal
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def paired_iou(boxes: Tensor) -> Tensor:
    """Return the intersection over union of each box with its partner's (SSFER, section on FaceMix).

    Args:
        boxes: (B, 4) with x2 > x1 and y2 > y1.

    Returns:
        (B,) in [0, 1], symmetric: value i equals value B-1-i; no gradient.
    """
    boxes = boxes.detach().float()
    partner = boxes.flip(0)
    width = torch.minimum(boxes[:, 2], partner[:, 2]) - torch.maximum(boxes[:, 0], partner[:, 0])
    height = torch.minimum(boxes[:, 3], partner[:, 3]) - torch.maximum(boxes[:, 1], partner[:, 1])
    intersection = width.clamp(min=0) * height.clamp(min=0)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return intersection / (area + area.flip(0) - intersection)


@torch.no_grad()
def image_kappa(images: Tensor, measure: str) -> Tensor:
    """Return kappa of each image and its partner, (B,); every pair is compared once.

    Args:
        images: (B, 3, H, W) with pixels in 0..1.
        measure: psnr, ssim or fsim.

    Raises:
        ValueError: odd batch or unknown measure.
        SsferError: images smaller than the window of SSIM.
    """
    if len(images) % 2:
        raise ValueError(f"a batch is paired with its reverse and needs an even size, found {len(images)}")
    with torch.autocast(images.device.type, enabled=False):  # variances are small differences of large numbers
        first, second = images.float().chunk(2)
        second = second.flip(0)
        if measure == "psnr":
            similarity = psnr(first, second) / HIGHEST_PSNR
        elif measure == "ssim":
            similarity = ssim(first, second)
        elif measure == "fsim":
            similarity = fsim(first, second)
        else:
            raise ValueError(f"unknown measure '{measure}' (known: {', '.join(IMAGE_KAPPAS)})")
    kappa = 1 - similarity.clamp(0, 1)
    return torch.cat([kappa, kappa.flip(0)])


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Return peak signal-to-noise ratios (n,) in dB for a peak of 1; infinite for equal images."""
    return -10 * torch.log10((first - second).square().mean(dim=(1, 2, 3)))


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return structural similarities (n,), means over channels and pixels (Wang et al. 2004, equation 13).

    Means and variances are those of a Gaussian window of 11 x 11 pixels, where it lies inside the image; K1 is 0.01,
    K2 0.03.

    Raises:
        SsferError: a side below 11 px.
    """
    if min(first.shape[2:]) < _WINDOW:
        raise SsferError(
            f"SSIM compares images of at least {_WINDOW} px, found {min(first.shape[2:])} px; "
            "choose another finetune.facemix.kappa or a larger model.img_size"
        )
    squares = (first * first, second * second, first * second)
    m1, m2, m11, m22, m12 = _window(torch.stack([first, second, *squares]))
    variances, covariance = m11 - m1 * m1 + m22 - m2 * m2, m12 - m1 * m2
    structure = (2 * covariance + _C2) / (variances + _C2)
    return ((2 * m1 * m2 + _C1) / (m1 * m1 + m2 * m2 + _C1) * structure).mean(dim=(1, 2, 3))


def _window(maps: Tensor) -> Tensor:
    """Return Gaussian means over windows of 11 x 11 pixels, (..., H - 10, W - 10)."""
    weights = [torch.exp(torch.tensor(-((i - _WINDOW // 2) ** 2) / (2 * _SIGMA**2))).item() for i in range(_WINDOW)]
    total = sum(weights)
    for dim in (-2, -1):
        maps = _correlate(maps, [w / total for w in weights], dim)
    return maps


def _correlate(maps: Tensor, weights: Sequence[float], dim: int) -> Tensor:
    """Return the correlation with a row of weights along one dimension, without padding.

    A convolution would do, but may run in TF32 on a GPU, which a variance does not survive.
    """
    length = maps.shape[dim] - len(weights) + 1
    out = maps.narrow(dim, 0, length) * weights[0]
    for i, weight in enumerate(weights[1:], start=1):
        out = out.add_(maps.narrow(dim, i, length), alpha=weight)
    return out
