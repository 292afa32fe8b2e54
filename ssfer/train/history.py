"""What a training run remembers of its steps and epochs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from ssfer.core.progress import Cost

Row = dict[str, Any]


@dataclass
class Progression:
    """Everything of a run beside the networks: where it stands, its curve, the best state on the validation part."""

    step: int = 0
    history: list[Row] = field(default_factory=list)
    best: dict[str, Any] | None = None

    def keep_best(self, state: Mapping[str, Tensor], row: Row) -> None:
        """Keep a copy of the state if the row's validation figures are the best so far; the earlier wins a tie."""
        rank = (row["val_accuracy"], -row["val_loss"])
        if self.best is None or rank > (self.best["val_accuracy"], -self.best["val_loss"]):
            copied = {k: v.detach().clone() for k, v in state.items()}
            self.best = {k: row[k] for k in ("epoch", "val_accuracy", "val_loss")} | {"state": copied}


class Meter:
    """Running epoch sums of figures over all processes: scalars are averaged over steps, `*_count` are summed."""

    def __init__(self) -> None:
        self.steps = 0
        self.sums: dict[str, Tensor] = {}

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Add one step's outputs."""
        self.steps += 1
        for name, value in values.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name].to(value.device) + value if name in self.sums else value

    def result(self) -> Row:
        """Return the epoch's figures as plain numbers and lists."""
        return {
            name: total.long().tolist() if name.endswith("_count") else total.item() / self.steps
            for name, total in self.sums.items()
        }


class Outcome(NamedTuple):
    """What all processes know of a step: mean loss, share of them asked to stop, whether a snapshot is due."""

    step: int
    lr: float
    loss: Tensor
    stop: Tensor
    due: Tensor

    def wishes(self) -> tuple[bool, bool]:
        """Return (stop, due)."""
        return bool(self.stop.item()), bool(self.due.item())


class Pace:
    """Speed of each epoch, for the diary: it depends on the machine, so it is no part of a run's history."""

    def __init__(self, step: int, cost: Cost | None) -> None:
        self._step, self._cost, self._time = step, cost, time.monotonic()

    def lap(self, step: int, images_per_step: int) -> dict[str, float]:
        """Return images a second since the last call, and the share of the devices' arithmetic that they used."""
        now = time.monotonic()
        rate = (step - self._step) * images_per_step / max(now - self._time, 1e-9)
        self._step, self._time = step, now
        figures = {"images_per_second": rate}
        return figures if self._cost is None else {**figures, "utilisation": self._cost.utilisation(rate)}
