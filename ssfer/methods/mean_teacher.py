"""Mean Teacher: the student predicts what its average predicts on another view (Tarvainen and Valpola 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssfer.imbalance import Imbalance, Population
from ssfer.losses import probability_mse
from ssfer.masking import sigmoid_rampup
from ssfer.method_params import MeanTeacherParams
from ssfer.methods.base import Batch
from ssfer.methods.ramped import Ramped, Terms
from ssfer.models.ema import EMA


class MeanTeacher(Ramped):
    """Unlabeled loss: mean squared difference of student's and teacher's probabilities (section 2), no threshold.

    Decisions: only unlabeled faces enter it, as labeled ones come in a single view; one decay for the whole run (the
    paper: 0.99, 0.999 after the rise of the weight); the teacher sees its view in eval mode, without dropout.
    """

    views: ClassVar[tuple[str, ...]] = ("w", "w2")
    targets: ClassVar[tuple[str, ...]] = ("w",)
    exports: ClassVar[Mapping[str, str]] = {"student": "student", "teacher": "teacher.module"}
    evaluated: ClassVar[str] = "teacher"

    def __init__(
        self,
        student: nn.Module,
        params: MeanTeacherParams,
        imbalance: Imbalance | None = None,
        population: Population | None = None,
    ) -> None:
        super().__init__(student, params, imbalance, population)
        self.teacher = EMA(student, params.ema_decay)

    def ramp(self) -> Tensor:
        """Return the paper's r(t)."""
        return sigmoid_rampup(self.clock.share, self.params.rampup)

    def terms(self, batch: Batch) -> Terms:
        """See `Ramped.terms`."""
        probs = self.teacher(batch["x_ulb_w"]).softmax(dim=1)
        n = len(batch["x_lb"])
        logits = self.student(torch.cat([batch["x_lb"], batch["x_ulb_w2"]]))
        return Terms(self.labeled_loss(logits[:n], batch), probability_mse(logits[n:], probs), probs)

    def after_step(self, step: int) -> None:
        """Move the teacher."""
        super().after_step(step)
        self.teacher.update(self.student)
