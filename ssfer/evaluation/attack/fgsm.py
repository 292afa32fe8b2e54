"""The fast gradient sign method (Goodfellow et al. 2015, section 4), restricted to a part of the image.

x_adv = clip(x + epsilon * mask * sign(d CE / d x), 0, 1), pixels in 0..1, normalization inside the model. The sign
needs no epsilon and no mask, so one backward pass serves all of them. Attacked images are not rounded to 8 bits.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.evaluation.attack.forward import Triple, logits_of

Space = Literal["pixel", "normalized"]


def ascent(model: nn.Module, images: Tensor, labels: Tensor, mean: Triple, std: Triple) -> Tensor:
    """Return the sign of each pixel's cross-entropy gradient, (B, 3, H, W) of -1, 0 and 1."""
    pixels = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        # The sum, not the mean: an image's gradient does not depend on how many others are in its batch.
        loss = F.cross_entropy(logits_of(model, pixels, mean, std), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, pixels)
    return gradient.sign()


def perturb(
    images: Tensor, direction: Tensor, epsilon: float, std: Triple, mask: Tensor | None = None, space: Space = "pixel"
) -> Tensor:
    """Return the images after a step of `epsilon` along `direction` inside the mask, clipped to 0..1.

    Args:
        images, direction: (B, 3, H, W).
        epsilon: size of the step.
        std: of the model's normalization, per channel.
        mask: (B, 1, H, W), bool; None: everywhere.
        space: unit of epsilon: "pixel", pixels in 0..1, or "normalized", the model's input, where a step of epsilon is
            epsilon * std of the channel in pixels (with the same signs, because std is positive).
    """
    step = direction * epsilon
    if space == "normalized":
        step = step * torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    if mask is not None:
        step = step * mask
    return (images + step).clamp(0, 1)
