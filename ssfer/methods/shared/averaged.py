"""Base of the methods whose result is a running average of the student's weights."""

from collections.abc import Mapping
from typing import ClassVar

from ssfer.methods.base import SemiSupervised
from ssfer.methods.context import Context
from ssfer.methods.shared.settings import AveragedSettings
from ssfer.models.ema import EMA


class Averaged(SemiSupervised):
    """Mixin that precedes a method's base class: `teacher` is an average of the student and is evaluated."""

    exports: ClassVar[Mapping[str, str]] = {"student": "student", "teacher": "teacher.module"}
    evaluated: ClassVar[str] = "teacher"
    running_average: ClassVar[str] = "teacher"
    settings: AveragedSettings

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.teacher = EMA(self.student, self.settings.ema_decay)
