"""Mean Teacher: the student predicts what its average predicts on another view (Tarvainen and Valpola 2017)."""

from typing import ClassVar

import torch
from pydantic import Field

from ssfer.core.settings import Share, Weight
from ssfer.methods.base import Batch
from ssfer.methods.shared.averaged import Averaged
from ssfer.methods.shared.losses import probability_mse
from ssfer.methods.shared.ramped import Ramped, Terms
from ssfer.methods.shared.settings import AveragedSettings, ShapedRampSettings


class MeanTeacher(Averaged, Ramped):
    """Unlabeled loss: mean squared difference of student's and teacher's probabilities (section 2), no threshold.

    Decisions: only unlabeled faces enter it, as labeled ones come in a single view; one decay for the whole run (the
    paper: 0.99, 0.999 after the rise of the weight); the teacher sees its view in eval mode, without dropout.
    """

    class Settings(ShapedRampSettings, AveragedSettings):
        """Section methods.mean_teacher of params.yaml."""

        lambda_u: Weight = Field(50.0, description="Weight of the squared difference to the teacher's probabilities.")
        rampup: Share = Field(
            0.4, description="Share of the run's steps over which the weight rises (paper: about a quarter)."
        )
        ema_decay: Share = Field(0.99, description="Decay of the teacher (paper: 0.999 in the end).")

    settings: Settings
    title, paper = "Mean Teacher", "Tarvainen and Valpola 2017"
    views: ClassVar[tuple[str, ...]] = ("w", "w2")
    targets: ClassVar[tuple[str, ...]] = ("w",)

    def terms(self, batch: Batch) -> Terms:
        """See `Ramped.terms`."""
        probs = self.teacher(batch["x_ulb_w"]).softmax(dim=1)
        n = len(batch["x_lb"])
        logits = self.student(torch.cat([batch["x_lb"], batch["x_ulb_w2"]]))
        return Terms(self.labeled_loss(logits[:n], batch["y_lb"]), probability_mse(logits[n:], probs), probs)
