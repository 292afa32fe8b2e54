"""Records of a training run: running sums of an epoch, the history of metrics, the best state, speed."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ssfer.core.progress import Cost

Row = dict[str, Any]


class Meter:
    """Running epoch sums of metrics over all processes: scalars are averaged over steps, `*_count` are summed."""

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
        """Return the epoch's metrics as plain numbers and lists."""
        return {
            name: total.long().tolist() if name.endswith("_count") else total.item() / self.steps
            for name, total in self.sums.items()
        }


@dataclass
class Progression:
    """The state of a run, except networks and optimizer.

    Attributes:
        step: optimizer steps done.
        history: a row of metrics per epoch.
        best: the best state on the validation part and its metrics; None before the first evaluation.
        meter: sums of the current epoch.
    """

    step: int = 0
    history: list[Row] = field(default_factory=list)
    best: dict[str, Any] | None = None
    meter: Meter = field(default_factory=Meter)

    def keep_best(self, state: Mapping[str, Tensor], row: Row) -> None:
        """Keep a copy of the state if the row's validation metrics are the best so far.

        The highest `val_accuracy` is best; a tie goes to the lowest `val_loss`, then to the earlier epoch.
        """
        rank = (row["val_accuracy"], -row["val_loss"])
        if self.best is None or rank > (self.best["val_accuracy"], -self.best["val_loss"]):
            copied = {k: v.detach().clone() for k, v in state.items()}
            self.best = {k: row[k] for k in ("epoch", "val_accuracy", "val_loss")} | {"state": copied}


class Pace:
    """Speed of each epoch. It depends on the machine, so it is logged but not part of a run's history."""

    def __init__(self, step: int, cost: Cost | None) -> None:
        self._step, self._cost, self._time = step, cost, time.monotonic()

    def lap(self, step: int, images_per_step: int) -> dict[str, float]:
        """Return images per second since the last call, and the share of the devices' peak speed that they used."""
        now = time.monotonic()
        rate = (step - self._step) * images_per_step / max(now - self._time, 1e-9)
        self._step, self._time = step, now
        speed = {"images_per_second": rate}
        return speed if self._cost is None else {**speed, "utilization": self._cost.utilization(rate)}
