"""The supervised contrastive loss of a batch against stored features; those within a batch are in `losses`.

Letters: B batch, C classes, D width of a feature, M slots of the memory.
"""

from __future__ import annotations

import torch
from torch import Tensor


def memory_contrastive_loss(
    features: Tensor, labels: Tensor, own: Tensor, bank: tuple[Tensor, Tensor, Tensor], temperature: float
) -> Tensor:
    """Return the supervised contrastive loss of images against a memory (Khosla et al. 2020, L_out).

    The mean over i of -sum_j Y_j[y_i] log s_ij / sum_j Y_j[y_i], with s_i the softmax of f_i . F_j / temperature, over
    the filled slots j except the image's own. An image without a slot of its class counts as 0.

    Args:
        features: f, unit vectors (B, D). labels: y (B,). own: slots of these images (B,).
        bank: unit vectors F (M, D), labels Y (M, C), filled (M,) bool; without gradient.
    """
    stored, targets, filled = bank
    with torch.autocast(features.device.type, enabled=False):
        scores = features.float() @ stored.float().T / temperature
    others = filled.expand_as(scores).scatter(1, own[:, None], False)
    likeness = scores.masked_fill(~others, -torch.inf).log_softmax(dim=1).masked_fill(~others, 0)
    pairs = targets.T[labels].masked_fill(~others, 0)
    return -((pairs * likeness).sum(dim=1) / pairs.sum(dim=1).clamp(min=1e-12)).mean()
