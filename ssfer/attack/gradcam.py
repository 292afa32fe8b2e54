"""Grad-CAM for vision transformers: which part of an image made the model predict its class.

Selvaraju et al. 2017, equations (1) and (2), on tokens instead of a convolution's feature map (SSFER specification,
section 12). The paper names neither layer nor class: the specification takes the output of the first LayerNorm of the
last block, the last place where patch tokens still reach the class token, and the predicted class.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ssfer.attack.forward import Triple, logits_of


def grad_cam(model: VisionTransformer, images: Tensor, mean: Triple, std: Triple) -> Tensor:
    """Return the map (B, H, W) in 0..1 of what speaks for each image's predicted class.

    Tokens become a map on the patch grid (`token_map`), it is scaled to 0..1 and enlarged bilinearly. Images of a
    batch do not influence each other, and the parameters' `.grad` stays as it is.

    Args:
        model: in eval mode.
        images: (B, 3, H, W) in 0..1.
    """
    held: list[Tensor] = []

    def hold(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        held.append(output.detach().requires_grad_())  # a leaf: the way back ends here
        return held[0]

    layer = model.blocks[-1].norm1
    assert isinstance(layer, nn.Module)
    handle = layer.register_forward_hook(hold)
    try:
        with torch.enable_grad():
            logits = logits_of(model, images, mean, std)
            score = logits.gather(1, logits.argmax(dim=1, keepdim=True))
            (gradient,) = torch.autograd.grad(score.sum(), held)
    finally:
        handle.remove()
    prefix, grid = model.num_prefix_tokens, model.patch_embed.grid_size
    cam = token_map(held[0].detach()[:, prefix:], gradient[:, prefix:]).unflatten(1, grid)
    size = (images.shape[2], images.shape[3])
    return F.interpolate(min_max(cam)[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def token_map(tokens: Tensor, gradient: Tensor) -> Tensor:
    """Return relu(sum_d w_d tokens_nd), (B, N), where w_d is the gradient's mean over the N tokens.

    Args:
        tokens, gradient: (B, N, D), activations and the score's gradient with respect to them.
    """
    weights = gradient.mean(dim=1, keepdim=True)
    return (weights * tokens).sum(dim=2).relu()


def min_max(maps: Tensor) -> Tensor:
    """Scale each map (B, h, w) to 0..1; one without differences, such as all zeros, becomes 0 everywhere."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), torch.zeros_like(maps))
