"""SoftMatch: every pseudo-label counts, the less the further its confidence lies below the mean (Chen et al. 2023)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ssfer.config.methods import SoftMatchParams
from ssfer.methods.base import Batch
from ssfer.methods.fixmatch import FixMatch
from ssfer.methods.shared.imbalance import Imbalance, Population, known
from ssfer.methods.shared.thresholds import TruncatedGaussian


class SoftMatch(FixMatch):
    """FixMatch with the weights of `TruncatedGaussian` instead of a threshold; classes are the unaligned predictions'.

    Decision: predictions move mean and variance after the step, the paper's within it.
    """

    params: SoftMatchParams
    corrections: ClassVar[tuple[str, ...]] = ("logit_adjustment",)

    def __init__(
        self,
        student: nn.Module,
        params: SoftMatchParams,
        imbalance: Imbalance | None = None,
        population: Population | None = None,
    ) -> None:
        super().__init__(student, params, imbalance, population)
        self.gaussian = TruncatedGaussian(len(known(population).labeled), params.decay, params.n_sigma)

    def select(self, probs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `SelfTraining.select`."""
        self.gaussian.note(probs)
        return self.gaussian.weights(probs), probs.argmax(dim=1)
