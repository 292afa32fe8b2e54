"""Grad-CAM: which part of an image made the model predict its class.

Selvaraju et al. 2017, equations (1) and (2). For a convolutional network it uses the last feature map, as there; for a
vision transformer the tokens (SSFER specification, section 12). SSFER names neither layer nor class. The specification
takes the predicted class and the output of the first LayerNorm of the last block, the last layer from which patch
tokens influence the class token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.evaluation.attack.forward import Triple, standardized
from ssfer.models.classifier import body_of
from ssfer.models.features import has_patch_tokens


def grad_cam(model: nn.Module, images: Tensor, mean: Triple, std: Triple) -> Tensor:
    """Return the map (B, H, W) in 0..1 of the evidence for each image's predicted class.

    A ViT's patch tokens are a map on the patch grid; for other networks tokens are the positions of the feature map
    that `forward_features` returns (`token_map`). The map is scaled to 0..1 and enlarged bilinearly. A feature map of
    one position, as for small images, gives 0 everywhere. Images of a batch do not influence each other, and the
    parameters' `.grad` does not change.

    Args:
        model: in eval mode; a classifier (`ssfer.models.classifier`).
        images: (B, 3, H, W) in 0..1.
        mean, std: per channel, of the model's normalization.

    Raises:
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("the model must be in eval mode")
    body: Any = body_of(model)
    transformer = has_patch_tokens(body)
    x = standardized(images, mean, std)
    with torch.enable_grad():
        if transformer:
            with _held_output(body.blocks[-1].norm1) as held:
                logits = model(x)
        else:  # what a network does, in two halves
            held = [body.forward_features(x).detach().requires_grad_()]
            logits = cast(Any, model).forward_head(held[0])
        score = logits.gather(1, logits.argmax(dim=1, keepdim=True))
        (gradient,) = torch.autograd.grad(score.sum(), held)
    found = held[0].detach()
    if transformer:
        prefix, grid = body.num_prefix_tokens, body.patch_embed.grid_size
        tokens, slopes = found[:, prefix:], gradient[:, prefix:]
    else:
        grid = found.shape[2:]
        tokens, slopes = (maps.flatten(2).transpose(1, 2) for maps in (found, gradient))
    cam = token_map(tokens, slopes).unflatten(1, tuple(grid))
    size = (images.shape[2], images.shape[3])
    return F.interpolate(min_max(cam)[:, None], size, mode="bilinear", align_corners=False)[:, 0]


@contextmanager
def _held_output(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Make the layer's output a leaf of the graph, where backpropagation ends, and yield it in a list."""
    held: list[Tensor] = []

    def hold(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        held.append(output.detach().requires_grad_())
        return held[0]

    handle = layer.register_forward_hook(hold)
    try:
        yield held
    finally:
        handle.remove()


def token_map(tokens: Tensor, gradient: Tensor) -> Tensor:
    """Return relu(sum_d w_d tokens_nd), (B, N), where w_d is the gradient's mean over the N tokens or positions.

    Args:
        tokens, gradient: (B, N, D), activations and the score's gradient with respect to them.
    """
    weights = gradient.mean(dim=1, keepdim=True)
    return (weights * tokens).sum(dim=2).relu()


def min_max(maps: Tensor) -> Tensor:
    """Return each map (B, h, w) scaled to 0..1; a constant map becomes 0 everywhere."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), torch.zeros_like(maps))
