"""UDA: sharpened predictions of the weak view are soft targets of the strong one (Xie et al. 2020)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from ssfer.config.methods import UdaParams
from ssfer.methods.fixmatch import FixMatch
from ssfer.methods.shared.imbalance import Imbalance, Population
from ssfer.methods.shared.losses import annealed_cross_entropy, masked_soft_cross_entropy
from ssfer.methods.shared.targets import sharpen
from ssfer.methods.shared.thresholds import Clock, annealing_limit


def soft_targets(logits: Tensor, target: Tensor, mask: Tensor, probs: Tensor, temperature: float) -> Tensor:
    """Return the masked cross-entropy of the sharpened predictions."""
    return masked_soft_cross_entropy(logits, sharpen(probs, temperature), mask)


class UDA(FixMatch):
    """FixMatch with soft targets softmax(z / T) and, optionally, labeled images left out while they are too easy.

    The cross-entropy of soft targets has the gradient of the paper's KL divergence: they differ by the entropy of the
    target. The paper's confidence masking (beta) is `threshold`, its training signal annealing `annealing`.
    """

    params: UdaParams
    corrections: ClassVar[tuple[str, ...]] = ("distribution_alignment", "logit_adjustment")

    def __init__(
        self,
        student: nn.Module,
        params: UdaParams,
        imbalance: Imbalance | None = None,
        population: Population | None = None,
    ) -> None:
        super().__init__(student, params, imbalance, population)
        self.clock = Clock(population.steps if population else 0)
        self.pseudo_loss = partial(soft_targets, temperature=params.temperature)

    def labeled_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of the labeled images that take part yet."""
        limit = annealing_limit(self.clock.share, logits.shape[1], self.params.annealing)
        return annealed_cross_entropy(logits, labels, limit)
