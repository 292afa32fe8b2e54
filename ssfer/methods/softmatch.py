"""SoftMatch: pseudo-labels are weighted by how far their confidence lies below the mean (Chen et al. 2023)."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from ssfer.core.settings import Share, Weight
from ssfer.methods.context import Context
from ssfer.methods.shared.self_training import Predictions, SelfTraining
from ssfer.methods.shared.settings import UnlabeledSettings
from ssfer.methods.shared.thresholds import TruncatedGaussian


class SoftMatch(SelfTraining):
    """FixMatch with the weights of `TruncatedGaussian` instead of a threshold; classes are the unaligned predictions'.

    Decision: predictions update mean and variance after the step, in the paper within it.
    """

    class Settings(UnlabeledSettings):
        """Section methods.softmatch of params.yaml."""

        lambda_u: Weight = Field(1.0, description="Weight of the unlabeled loss.")
        decay: Share = Field(0.99, description="Decay of the running means (paper: 0.999).")

    settings: Settings
    title, paper = "SoftMatch", "Chen et al. 2023"
    corrections: ClassVar[tuple[str, ...]] = ("logit_adjustment",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.gaussian = TruncatedGaussian(len(context.known().labeled), self.settings.decay)

    def select(self, found: Predictions) -> tuple[Tensor, Tensor]:
        """See `SelfTraining.select`."""
        self.gaussian.note(found.probs)
        return self.gaussian.weights(found.probs), found.probs.argmax(dim=1)
