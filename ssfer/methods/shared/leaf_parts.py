"""LEAF's parts, used by LEAF and, switched on by params semisup.leaf_parts, inside other methods."""

from __future__ import annotations

from typing import Annotated, Literal
from pydantic import Field
from ssfer.core.settings import Positive, Section
from ssfer.models.experts import ExpertSettings

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.core.errors import SsferError
from ssfer.methods.shared.losses import ambiguous_loss
from ssfer.methods.shared.self_training import SelfTraining
from ssfer.models.expert_head import add_experts, expert_head

TINY = 1e-8  # below it, the ambiguous loss gives no scale


class AmbiguousSettings(Section):
    """Pseudo-labels of several classes."""

    k_max: Positive = Field(3, description="Classes a pseudo-label names at most; the data must have more.")
    coverage: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="A pseudo-label names the fewest classes whose probabilities, with the next one's, reach this sum."
    )
    weighting: Literal["concave", "linear", "convex"] = Field(
        "concave", description="How a pseudo-label's weight falls with its ambiguity: concave | linear | convex."
    )
    mask_mode: Literal["per_sample", "batch_mean"] = Field(
        "per_sample", description="What the threshold does: per_sample, it chooses images | batch_mean, it only scales the batch's loss (release)."
    )


@dataclass(frozen=True)
class AmbiguousPseudoLoss:
    """The unlabeled loss of ambiguous pseudo-labels on the scale of plain cross-entropy (LEAF, section 4).

    beta * (1/B) sum_i mask_i w_i l_i, with l and w of `ambiguous_loss` and beta = mean CE / mean (l w) over the whole
    batch, without gradient. With `mask_mode: batch_mean` (release) it is beta * mean(w l) * mean(mask): every sample
    learns, however unsure, and the mask only scales.
    """

    settings: AmbiguousSettings

    def __call__(self, logits: Tensor, target: Tensor, mask: Tensor, probs: Tensor) -> Tensor:
        """Return the loss of logits (B, K) for classes (B,), their mask (B,) and target probabilities (B, K)."""
        p = self.settings
        loss, weight = ambiguous_loss(logits, probs, p.k_max, p.coverage, p.weighting)
        weighted = weight * loss
        own = weighted.detach().mean()
        beta = (F.cross_entropy(logits.detach().float(), target) / own.clamp(min=TINY)).where(own >= TINY, 1.0)
        if p.mask_mode == "batch_mean":
            return beta * weighted.mean() * mask.mean()
        return beta * (mask * weighted).mean()


def check_classes(params: AmbiguousSettings, num_classes: int) -> None:
    """Refuse data with too few classes for pseudo-labels of `k_max` of them.

    Raises:
        SsferError: no class would be left to be negative.
    """
    if num_classes <= params.k_max:
        raise SsferError(
            f"methods.leaf.k_max {params.k_max} needs {params.k_max + 1} classes at least, the data has {num_classes}; "
            f"set it to {num_classes - 1} or less"
        )


def number_of_classes(network: nn.Module) -> int:
    """Return K, told by a network's classifier: its last linear map, but for a head of experts."""
    head = expert_head(network)
    last = head.classifier if head else [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    return last.out_features


def use_experts(student: nn.Module, params: ExpertSettings) -> None:
    """Give a student the head of experts, in place."""
    add_experts(student, params)


def use_ambiguous_loss(method: SelfTraining, params: AmbiguousSettings) -> None:
    """Let a method learn from pseudo-labels of several classes.

    Raises:
        SsferError: the data has too few classes.
    """
    check_classes(params, number_of_classes(method.student))
    method.pseudo_loss = AmbiguousPseudoLoss(params)
