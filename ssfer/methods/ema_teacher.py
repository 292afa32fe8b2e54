"""EMA teacher: confident predictions of the averaged network are the pseudo-labels (SSFER specification 10)."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from ssfer.core.settings import Share, Weight
from ssfer.methods.shared.averaged import Averaged
from ssfer.methods.shared.self_training import Predictions, SelfTraining
from ssfer.methods.shared.settings import AveragedSettings, PseudoLabelSettings


class EMATeacher(Averaged, SelfTraining):
    """The teacher's confident classes on the weak view are the student's targets on the strong view."""

    class Settings(PseudoLabelSettings, AveragedSettings):
        """Section methods.ema_teacher of params.yaml."""

        threshold: Share = Field(0.7, description="Confidence a pseudo-label needs.")
        threshold_op: Literal["gt", "ge"] = Field(
            "gt", description="gt: above the threshold (paper); ge: also equal to it (authors' code)."
        )
        lambda_u: Weight = Field(5.0, description="Weight of the unlabeled loss.")
        ema_decay: Share = Field(
            0.99, description="Decay of the teacher (authors' code: 0.999, for long runs; the paper does not say)."
        )

    settings: Settings
    title, paper = "EMA teacher", "SSFER, section 10"

    def select(self, found: Predictions) -> tuple[Tensor, Tensor]:
        """See `SelfTraining.select`."""
        p = self.settings
        return self.imbalance.mask(found.probs, found.places, p.threshold, p.threshold_op)

    def label_logits(self, weak: Tensor) -> Tensor:
        """Return the teacher's logits."""
        return self.teacher(weak)
