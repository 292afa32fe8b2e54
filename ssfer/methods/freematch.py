"""FreeMatch: thresholds that follow the confidence itself, and fairness over classes (Wang et al. 2023)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ssfer.config.methods import FreeMatchParams
from ssfer.methods.base import Batch
from ssfer.methods.fixmatch import FixMatch
from ssfer.methods.shared.imbalance import Imbalance, Population, known
from ssfer.methods.shared.losses import confidence_mask, fairness_loss
from ssfer.methods.shared.thresholds import SelfAdaptiveThresholds


class FreeMatch(FixMatch):
    """FixMatch with `SelfAdaptiveThresholds`; unlabeled term lambda_u * L_u + lambda_f * fairness loss.

    Decisions: predictions move the thresholds after the step, the paper's within it; a confidence equal to its
    threshold passes.
    """

    params: FreeMatchParams
    corrections: ClassVar[tuple[str, ...]] = ("distribution_alignment", "logit_adjustment")

    def __init__(
        self,
        student: nn.Module,
        params: FreeMatchParams,
        imbalance: Imbalance | None = None,
        population: Population | None = None,
    ) -> None:
        super().__init__(student, params, imbalance, population)
        self.adaptive = SelfAdaptiveThresholds(len(known(population).labeled), params.decay)

    def select(self, probs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `SelfTraining.select`."""
        self.adaptive.note(probs)
        return confidence_mask(probs, self.adaptive.thresholds(), "ge")

    def extra_loss(self, logits: Tensor, mask: Tensor) -> Tensor:
        """See `SelfTraining.extra_loss`."""
        return self.params.lambda_f * fairness_loss(logits, mask, self.adaptive.mean, self.adaptive.histogram)
