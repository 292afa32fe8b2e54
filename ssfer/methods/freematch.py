"""FreeMatch: thresholds that follow the confidence itself, and fairness over classes (Wang et al. 2023)."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from ssfer.core.settings import Share, Weight
from ssfer.methods.context import Context
from ssfer.methods.shared.losses import confidence_mask, fairness_loss
from ssfer.methods.shared.self_training import Predictions, SelfTraining
from ssfer.methods.shared.settings import UnlabeledSettings
from ssfer.methods.shared.thresholds import SelfAdaptiveThresholds


class FreeMatch(SelfTraining):
    """FixMatch with `SelfAdaptiveThresholds`; unlabeled term lambda_u * L_u + lambda_f * fairness loss.

    Decisions: predictions update the thresholds after the step, in the paper within it; a confidence equal to the
    threshold passes.
    """

    class Settings(UnlabeledSettings):
        """Section methods.freematch of params.yaml."""

        lambda_u: Weight = Field(1.0, description="Weight of the unlabeled loss.")
        lambda_f: Weight = Field(0.001, description="Weight of the fairness over classes (paper: 0.001 to 0.05).")
        decay: Share = Field(
            0.99, description="Decay of the running means (paper: 0.999, for runs of many thousand steps)."
        )

    settings: Settings
    title, paper = "FreeMatch", "Wang et al. 2023"
    corrections: ClassVar[tuple[str, ...]] = ("distribution_alignment", "logit_adjustment")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.adaptive = SelfAdaptiveThresholds(len(context.known().labeled), self.settings.decay)

    def select(self, found: Predictions) -> tuple[Tensor, Tensor]:
        """See `SelfTraining.select`."""
        self.adaptive.note(found.probs)
        return confidence_mask(found.probs, self.adaptive.thresholds(), "ge")

    def extra_loss(self, logits: Tensor, mask: Tensor) -> Tensor:
        """See `SelfTraining.extra_loss`."""
        return self.settings.lambda_f * fairness_loss(logits, mask, self.adaptive.mean, self.adaptive.histogram)
