"""The forward pass used in this package: input pixels are in 0..1, normalization is inside, weights are fixed."""

import torch
from torch import Tensor, nn

Triple = tuple[float, float, float]


def to_pixels(images: Tensor) -> Tensor:
    """Return uint8 images (B, 3, H, W) as float32 in 0..1."""
    return images.to(torch.float32, memory_format=torch.contiguous_format) / 255


def logits_of(model: nn.Module, pixels: Tensor, mean: Triple, std: Triple) -> Tensor:
    """Return the logits (B, K) of images in 0..1: bit for bit those after `ssfer.core.pixels.normalize`.

    Raises:
        ValueError: the model is in training mode, where dropout would change the logits.
    """
    if model.training:
        raise ValueError("the model must be in eval mode")
    logits: Tensor = model(standardized(pixels, mean, std))
    return logits


def standardized(pixels: Tensor, mean: Triple, std: Triple) -> Tensor:
    """Return images in 0..1 normalized for networks, with gradient."""
    center, scale = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) for v in (mean, std))
    return (pixels - center) / scale


@torch.no_grad()
def predicted_class(model: nn.Module, pixels: Tensor, mean: Triple, std: Triple) -> Tensor:
    """Return the class of the largest logit, (B,) int64."""
    return logits_of(model, pixels, mean, std).argmax(dim=1)
