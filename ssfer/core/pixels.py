"""Pixel values as networks take them, and back; the geometry of images is not here."""

import torch
from torch import Tensor


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 (x / 255 - mean) / std, contiguous, on the device of `images`."""
    center = torch.tensor(mean, device=images.device).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    floats = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return floats.div_(255).sub_(center).div_(scale)  # in place: memory for a batch is claimed once, not four times


def denormalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Inverse of `normalize`, as floats clipped to 0..1."""
    center = torch.tensor(mean, device=images.device).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    return (images * scale + center).clamp(0, 1)
