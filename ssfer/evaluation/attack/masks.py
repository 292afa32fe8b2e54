"""The attacked parts of an image: the pixels that the model focuses on, all others, and equally many random pixels."""

import torch
from torch import Tensor

from ssfer.core.rng import counter_uniform

REGIONS = ("focused", "unfocused", "random")


def regions(cam: Tensor, threshold: float, keys: Tensor) -> dict[str, Tensor]:
    """Return region -> mask (B, 1, H, W), bool.

    focused = CAM > threshold, unfocused = all other pixels. The two differ in size; random, the control, has as many
    pixels of each image as focused, drawn from the whole image.

    Args:
        cam: (B, H, W) in 0..1.
        threshold: of the CAM, 0 to 1.
        keys: (B,) int64; each image's random pixels depend only on its key.
    """
    focused = (cam > threshold)[:, None]
    return dict(zip(REGIONS, (focused, ~focused, random_pixels(focused, keys)), strict=True))


def random_pixels(masks: Tensor, keys: Tensor) -> Tensor:
    """Return masks (B, 1, H, W) with as many pixels as the given ones, at random positions."""
    order = counter_uniform(keys, masks[0].numel()).argsort(dim=1, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return (rank < masks.sum(dim=(1, 2, 3))[:, None]).view_as(masks)


def measured_regions(measured: object) -> tuple[str, ...]:
    """Return the regions that a model's entry in metrics/robustness.json has; older ones lack random."""
    return tuple(region for region in REGIONS if isinstance(measured, dict) and region in measured)
