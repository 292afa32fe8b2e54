"""Grad-CAM: which part of an image made the model predict its class.

Selvaraju et al. 2017, equations (1) and (2). In a convolutional network on the last feature map, as there; in a vision
transformer on tokens (SSFER specification, section 12). SSFER names neither layer nor class: the specification takes
the output of the first LayerNorm of the last block, the last place where patch tokens still reach the class token, and
the predicted class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.evaluation.attack.forward import Triple, logits_of
from ssfer.models.features import has_patch_tokens
from ssfer.models.kinds import body_of


def grad_cam(model: nn.Module, images: Tensor, mean: Triple, std: Triple) -> Tensor:
    """Return the map (B, H, W) in 0..1 of what speaks for each image's predicted class.

    Tokens of a ViT become a map on the patch grid, those of other networks are the places of the feature map that
    `forward_features` returns (`token_map`); it is scaled to 0..1 and enlarged bilinearly. A feature map of one place,
    as of small images, tells nothing: 0 everywhere. Images of a batch do not influence each other, and the parameters'
    `.grad` stays as it is.

    Args:
        model: in eval mode; a classifier of timm's, or one of `ssfer.models.kinds`.
        images: (B, 3, H, W) in 0..1.
    """
    held: list[Tensor] = []

    def hold(activations: Tensor) -> Tensor:
        held.append(activations.detach().requires_grad_())  # a leaf: the way back ends here
        return held[0]

    body: Any = body_of(model)
    transformer = has_patch_tokens(body)
    with _output_of(body.blocks[-1].norm1, hold) if transformer else _map_of(body, hold), torch.enable_grad():
        logits = logits_of(model, images, mean, std)
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
def _output_of(layer: nn.Module, hold: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put `hold` behind a layer."""
    handle = layer.register_forward_hook(lambda module, inputs, output: hold(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _map_of(body: Any, hold: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put `hold` behind a network's `forward_features`, which is a method and takes no hook."""
    plain = body.forward_features
    body.forward_features = lambda *args, **kwargs: hold(plain(*args, **kwargs))
    try:
        yield
    finally:
        del body.forward_features  # the class's own is back


def token_map(tokens: Tensor, gradient: Tensor) -> Tensor:
    """Return relu(sum_d w_d tokens_nd), (B, N), where w_d is the gradient's mean over the N tokens or places.

    Args:
        tokens, gradient: (B, N, D), activations and the score's gradient with respect to them.
    """
    weights = gradient.mean(dim=1, keepdim=True)
    return (weights * tokens).sum(dim=2).relu()


def min_max(maps: Tensor) -> Tensor:
    """Scale each map (B, h, w) to 0..1; one without differences, such as all zeros, becomes 0 everywhere."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), torch.zeros_like(maps))
