"""The three levels of SIT-FER and their mixture (arXiv 2503.18463), as pure functions; nothing is modified in place.

Letters: B batch, C classes, D width of a feature, M slots of the memory. Features, stored ones and text embeddings have
length one, so that a product of two is a cosine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

RULES = ("softmax_knn", "class_max")
Weights = Sequence[float] | Tensor


def class_max_scores(
    features: Tensor, bank: Tensor, bank_labels: Tensor, num_classes: int, filled: Tensor | None = None
) -> Tensor:
    """Return v_c = max(0, largest cosine to a stored feature of class c), (B, C); 0 for a class without one.

    Args:
        features, bank: (B, D) and (M, D).
        bank_labels: (M,) int64.
        num_classes: C.
        filled: (M,) bool, slots in use; None: all.
    """
    similarity = features @ bank.T
    if filled is not None:
        similarity = similarity.masked_fill(~filled, 0.0)  # not above the floor of 0, so without effect
    floor = similarity.new_zeros(len(features), num_classes)
    return floor.scatter_reduce(1, bank_labels.expand_as(similarity), similarity, "amax")


def softmax_knn_probability(
    features: Tensor,
    bank: Tensor,
    bank_targets: Tensor,
    temperature: float = 0.1,
    neighbors: int | None = None,
    filled: Tensor | None = None,
) -> Tensor:
    """Return sum_j a_j Y_j with a = softmax_j(cosine_j / temperature), (B, C): the instance level by default.

    Args:
        features, bank: (B, D) and (M, D).
        bank_targets: Y, (M, C), rows sum to one.
        neighbors: only so many slots, the most similar ones; None: all.
        filled: (M,) bool, slots that count; None: all. Without any the result is zero.
    """
    scores = features @ bank.T / temperature
    if filled is not None:
        scores = scores.masked_fill(~filled, -torch.inf)
    if neighbors is not None and neighbors < len(bank):
        kept, places = scores.topk(neighbors, dim=1)
        share = torch.nan_to_num(kept.softmax(dim=1))
        return (share[:, :, None] * bank_targets[places]).sum(dim=1)
    return torch.nan_to_num(scores.softmax(dim=1)) @ bank_targets


def fuse(p_sem: Tensor, p_text: Tensor, p_ins: Tensor | None, weights: Weights) -> Tensor:
    """Return the weighted mean of the three levels (B, C); the weights are normalized to sum one.

    Args:
        p_sem, p_text, p_ins: (B, C), probabilities or scores; without an instance level its weight is ignored.
        weights: of the semantic, the text and the instance level; a tensor is not checked.

    Raises:
        ValueError: a negative weight, or none above zero.
    """
    if not isinstance(weights, Tensor) and (min(weights) < 0 or not sum(weights[: 2 if p_ins is None else 3])):
        raise ValueError(f"weights must not be negative and not all zero, found {list(weights)}")
    levels = torch.stack([p_sem, p_text] + ([] if p_ins is None else [p_ins]))
    share = torch.as_tensor(weights, dtype=levels.dtype, device=levels.device)[: len(levels)]
    return torch.einsum("l,lbc->bc", share / share.sum(), levels)


@dataclass(frozen=True)
class Levels:
    """How the text and the instance level are computed.

    Attributes:
        tau_text, tau_instance: temperatures; the second is of softmax_knn.
        rule: softmax_knn | class_max.
        neighbors: of softmax_knn; None: all slots.
    """

    tau_text: float
    tau_instance: float
    rule: str
    neighbors: int | None

    def text_scores(self, embedded: Tensor, matrix: Tensor) -> Tensor:
        """Return cosine / tau_text, (B, C), of features in the text space (B, D_t) and class embeddings (C, D_t)."""
        return embedded @ matrix.T / self.tau_text

    def instance_scores(self, features: Tensor, bank: Tensor, targets: Tensor, filled: Tensor | None = None) -> Tensor:
        """Return the scores of rule class_max, (B, C); the other rule has none, only probabilities."""
        return class_max_scores(features, bank, targets.argmax(dim=1), targets.shape[1], filled)

    def instance(self, features: Tensor, bank: Tensor, targets: Tensor, filled: Tensor | None = None) -> Tensor:
        """Return p_ins (B, C); `targets` (M, C) are one-hot or soft labels of the slots."""
        if self.rule == "class_max":
            return self.instance_scores(features, bank, targets, filled).softmax(dim=1)
        return softmax_knn_probability(features, bank, targets, self.tau_instance, self.neighbors, filled)

    def settings(self) -> dict[str, Any]:
        """Return the attributes as values for JSON."""
        return asdict(self)
