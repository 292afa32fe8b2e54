"""ssfer.methods.base: a method's children follow the student by themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ssfer.methods.base import Method
from ssfer.models.ema import EMA


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def after_step(self, step: int) -> None:
        self.steps.append(step)


class Whole(Method):
    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1))
        self.memory, self.average = Counting(), EMA(self.student, 0.75)
        self.missing: Any = None


def test_children_are_called_after_a_step_and_averages_move() -> None:
    method = Whole()
    with torch.no_grad():
        method.student.weight.fill_(4.0)  # type: ignore[operator,union-attr]
        method.average.module.weight.fill_(0.0)  # type: ignore[operator,union-attr]
    method.after_step(3)
    assert method.memory.steps == [3]
    assert method.average.module.weight.item() == 1.0  # type: ignore[operator,union-attr]
