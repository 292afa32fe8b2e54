"""Pseudo-labels of several classes (LEAF, sections 4 and 5), for LEAF and, by semisup.leaf_parts, other methods."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssfer.core.errors import SsferError
from ssfer.core.settings import Positive, Section
from ssfer.models.expert_head import expert_head

TINY = 1e-8  # a mean ambiguous loss below this is too small to rescale, beta is then 1


class AmbiguousSettings(Section):
    """Pseudo-labels of several classes."""

    k_max: Positive = Field(3, description="Most classes in a pseudo-label; the data must have more classes than that.")
    coverage: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9,
        description="A pseudo-label names the fewest classes whose probabilities, with the next one's, reach this sum.",
    )
    mask_mode: Literal["per_sample", "batch_mean"] = Field(
        "per_sample",
        description="What the threshold does: per_sample, it chooses images | batch_mean, it only scales the "
        "batch's loss (release).",
    )


def ambiguous_loss(
    logits: Tensor, target_probs: Tensor, k_max: int = 3, coverage: float = 0.9
) -> tuple[Tensor, Tensor]:
    """Return (loss (B,), weight (B,)): the likeliest classes of a target must rank above all others (LEAF, section 5).

    With targets sorted p1 >= p2 >= ... and C_j the sum of the first j, the m likeliest classes are positive, m being
    the smallest j < k_max with C_(j+1) >= coverage, else k_max; the rest is negative.
    loss = log(1 + sum_(n negative) sum_(j positive) exp(s_n - s_j)). The weight falls from 1 to 0 as the first m + 1
    classes become equally likely: with mu their mean and pi the last of them, log(1 + 50 (mu - pi)) / log(1 + 50 mu),
    the concave weight of the paper.

    Args:
        logits: s (B, K) of the view that learns.
        target_probs: p (B, K), rows sum to one; no gradient flows into them, and the weight has none.

    Raises:
        ValueError: not more classes than k_max.
    """
    s, p, num_classes = logits.float(), target_probs.detach().float(), logits.shape[1]
    if not 1 <= k_max < num_classes:
        raise ValueError(f"k_max {k_max} must be at least 1 and leave one of the {num_classes} classes negative")
    top, order = p.topk(k_max + 1, dim=1)
    covered = top.cumsum(dim=1)
    m = k_max - (covered[:, 1:k_max] >= coverage).sum(dim=1, keepdim=True)  # (B, 1); the sums only grow
    ranks = torch.arange(k_max, device=s.device).expand(len(s), -1)
    positive = torch.zeros_like(s, dtype=torch.bool).scatter(1, order[:, :k_max], ranks < m)
    worst_positive = (-s).masked_fill(~positive, -torch.inf).logsumexp(dim=1)
    best_negative = s.masked_fill(positive, -torch.inf).logsumexp(dim=1)
    mu, pi = (covered.gather(1, m) / (m + 1)).squeeze(1), top.gather(1, m).squeeze(1)
    gap = (mu - pi).clamp(min=0)  # rounding
    weight = torch.log1p(50 * gap) / torch.log1p(50 * mu)
    return F.softplus(worst_positive + best_negative), weight.clamp(max=1)


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
        loss, weight = ambiguous_loss(logits, probs, p.k_max, p.coverage)
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
    """Return K, the outputs of a network's classifier: its last linear map, or that of its head of experts."""
    head = expert_head(network)
    last = head.classifier if head else [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    return last.out_features
