"""Targets of unlabeled images, and what methods draw for them, as pure functions; nothing is modified in place.

Letters: B batch, K classes.
"""

import torch
from torch import Tensor

from ssfer.core.rng import counter_uniform, once_a_batch


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """Return p^(1/T) of each row, normalized (Berthelot et al. 2019, MixMatch, equation 7); T = 1 changes nothing."""
    powered = (probs / probs.max(dim=1, keepdim=True).values) ** (1 / temperature)  # scaled, so that none underflows
    return powered / powered.sum(dim=1, keepdim=True)


def draw_mixing(alpha: float) -> float:
    """Draw max(l, 1 - l), l from Beta(alpha, alpha): the first image dominates (MixMatch, equations 8 and 9).

    One draw per batch, as in FaceMix here (our decision; the equation can also be read as one draw per image).
    """
    drawn: float = once_a_batch(lambda: torch.distributions.Beta(alpha, alpha).sample().item())
    return max(drawn, 1 - drawn)


def mix(values: Tensor, lam: float, order: Tensor) -> Tensor:
    """Return lam * v_i + (1 - lam) * v_order(i), images (B, C, H, W) or targets (B, K) (MixMatch, equation 10)."""
    return lam * values + (1 - lam) * values[order]


def quarter_turns(keys: Tensor) -> Tensor:
    """Return a number of quarter turns, 0 to 3, for each key (B,): a function of the key alone."""
    return (counter_uniform(keys, 1)[:, 0] * 4).long()


def rotate(images: Tensor, turns: Tensor) -> Tensor:
    """Return each square image (B, C, S, S) rotated counterclockwise by its number of quarter turns (B,)."""
    turned = torch.stack([torch.rot90(images, k, (2, 3)) for k in range(4)])
    return turned[turns, torch.arange(len(images), device=images.device)]


def counter_normal(keys: Tensor, n: int) -> Tensor:
    """Return n standard normal numbers for each key (B,), (B, n): a function of the key alone."""
    uniform = counter_uniform(keys, n) + 2.0**-25  # strictly between 0 and 1
    return torch.erfinv((2 * uniform - 1).clamp(-1 + 2.0**-24, 1 - 2.0**-24)) * 2**0.5


def unit(values: Tensor) -> Tensor:
    """Return each sample of (B, ...) divided by its Euclidean norm; a sample of zeros stays zeros."""
    flat = values.flatten(1)
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp(min=1e-38)  # else squares of small ones would underflow
    return (flat / flat.norm(dim=1, keepdim=True).clamp(min=1)).view_as(values)


def pseudo_label_graph(probs: Tensor, threshold: float) -> Tensor:
    """Return CoMatch's graph of targets (B, B) (Li et al. 2021, equation 5), rows normalized to sum one.

    1 on the diagonal; between images the inner product of their predictions (B, K), where it reaches `threshold`.
    """
    with torch.autocast(probs.device.type, enabled=False):
        graph = probs @ probs.T
    graph = (graph * (graph >= threshold)).fill_diagonal_(1)
    return graph / graph.sum(dim=1, keepdim=True)


def class_pair_weights(probs: Tensor, threshold: float) -> Tensor:
    """Return CCSSL's weights of pairs of images (B, B) (Yang et al. 2022, class-aware contrast).

    The weight of two images with the same predicted class and at least `threshold` confidence is the product of their
    confidences, that of an image and itself (its other view) is 1, and that of all other pairs is 0.
    """
    confidence, target = probs.max(dim=1)
    sure = confidence * (confidence >= threshold)
    same = target[:, None] == target[None, :]
    return (sure[:, None] * sure[None, :] * same).fill_diagonal_(1)
