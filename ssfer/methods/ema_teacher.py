"""EMA teacher: confident predictions of the averaged network label the unlabelled faces (SSFER specification 10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from ssfer.imbalance import Imbalance, Population
from ssfer.method_params import EmaTeacherParams
from ssfer.methods.self_training import SelfTraining
from ssfer.models.ema import EMA


class EMATeacher(SelfTraining):
    """The teacher sees the weak view, the student learns its confident classes on the strong view."""

    exports: ClassVar[Mapping[str, str]] = {"student": "student", "teacher": "teacher.module"}
    evaluated: ClassVar[str] = "teacher"

    def __init__(
        self,
        student: nn.Module,
        params: EmaTeacherParams,
        imbalance: Imbalance | None = None,
        population: Population | None = None,
    ) -> None:
        super().__init__(student, params, imbalance, population)
        self.teacher = EMA(student, params.ema_decay)

    def label_logits(self, weak: Tensor) -> Tensor:
        """Return the teacher's logits."""
        return self.teacher(weak)

    def after_step(self, step: int) -> None:
        """Move the teacher."""
        super().after_step(step)
        self.teacher.update(self.student)
