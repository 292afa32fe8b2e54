"""Conversion between pixel values and network inputs; geometry of images is elsewhere."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (x / 255 - mean) / std of uint8 images (B, 3, H, W) as contiguous float32, on their device."""
    center, scale = _channels(tuple(mean), images.device), _channels(tuple(std), images.device)
    floats = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return floats.div_(255).sub_(center).div_(scale)  # in place: memory for a batch is claimed once, not four times


def denormalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return the inverse of `normalize` (B, 3, H, W) as floats clipped to 0..1."""
    center, scale = _channels(tuple(mean), images.device), _channels(tuple(std), images.device)
    return (images * scale + center).clamp(0, 1)


def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return values per channel (1, 3, 1, 1) on a device; copied there once, as a GPU's host waits for that."""
    # What an export or a compilation computes with is no number, and must not be kept for whoever comes next.
    return (_new_channels if torch.compiler.is_compiling() else _kept_channels)(values, device)


def _new_channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(1, 3, 1, 1)


_kept_channels = cache(_new_channels)
