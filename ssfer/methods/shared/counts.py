"""Counts of classes as sums over the batch: bincounts and boolean indices make a GPU's host wait for their size."""

import torch
from torch import Tensor


def class_counts(labels: Tensor, num_classes: int, which: Tensor | None = None) -> Tensor:
    """Return how many of `labels` (B,) are each class (K,), int64; other values are not counted.

    Args:
        which: (B,) bool, those that count; None: all.
    """
    found = labels[:, None] == torch.arange(num_classes, device=labels.device)
    return (found if which is None else found & which[:, None]).sum(dim=0)
