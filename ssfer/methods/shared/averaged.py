"""What the methods share whose result is a running average of the student's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from ssfer.methods.shared.imbalance import Imbalance, Population
from ssfer.config.methods import AdaCmParams, EmaTeacherParams, MeanTeacherParams
from ssfer.methods.base import Method
from ssfer.models.ema import EMA


class Averaged(Method):
    """Mixin before a base of methods: `teacher` follows the student, and is what is evaluated; params.ema_decay."""

    exports: ClassVar[Mapping[str, str]] = {"student": "student", "teacher": "teacher.module"}
    evaluated: ClassVar[str] = "teacher"

    def __init__(
        self,
        student: nn.Module,
        params: EmaTeacherParams | MeanTeacherParams | AdaCmParams,
        imbalance: Imbalance | None = None,
        population: Population | None = None,
    ) -> None:
        super().__init__(student, params, imbalance, population)  # type: ignore[call-arg]  # the base beside takes them
        self.teacher = EMA(self.student, params.ema_decay)
