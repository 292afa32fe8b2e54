"""Flags of the last steps, shared by all processes: is the loss finite, was a stop requested, is a snapshot due.

On a GPU the flags of a step are read one step late, so that the host does not wait for the GPU. Nothing is saved before
the loss is checked.
"""

import math
import signal
import time
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from ssfer.core.errors import Diverged
from ssfer.core.process import Preempted, StopRequest
from ssfer.train.checkpoints import Checkpoints
from ssfer.train.device import Machine
from ssfer.train.late import Late

_ADVICE = {
    True: "Lower the learning rate or lengthen the warm-up",
    False: "No step was taken before, so look at the weights that it starts from and at the method's loss",
}


class _Outcome(NamedTuple):
    """Flags of a step: mean loss, and above 0 if any process was asked to stop or if a snapshot is due."""

    step: int
    lr: float
    loss: Late
    stop: Late
    due: Late


class StepFlags:
    """Shares flags over the processes and reads them when they are available.

    Args:
        machine: the processes.
        stop: the signals that this process got.
        checkpoints: named when the loss is not finite.
    """

    def __init__(self, machine: Machine, stop: StopRequest, checkpoints: Checkpoints) -> None:
        self._machine, self._stop, self._checkpoints = machine, stop, checkpoints
        self._last: _Outcome | None = None
        self._before: _Outcome | None = None
        self._saved = time.monotonic()

    def exchange(self, step: int, lr: float, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the step's metrics over all processes; the flags are exchanged in the same operation."""
        period = 60 * self._machine.params.checkpoint_minutes
        due = self._machine.rank == 0 and time.monotonic() - self._saved > period
        flags = {"stop": self._stop.number is not None, "due": due}
        total = self._machine.total({**metrics, **{k: torch.tensor(v).double() for k, v in flags.items()}})
        self._before = self._last
        self._last = _Outcome(step, lr, *(Late(total[name]) for name in ("loss", "stop", "due")))
        del total["stop"], total["due"]
        return total

    def check_finite(self) -> None:
        """Check the loss of the last step that was exchanged.

        Raises:
            Diverged: it is not finite (names step, learning rate and the last snapshot).
        """
        if self._last is not None and not math.isfinite(value := self._last.loss.read()):
            self._checkpoints.give_up()
            raise Diverged(
                f"the loss became {value} at step {self._last.step} with learning rate {self._last.lr:.3g}; last "
                f"snapshot: {self._checkpoints.newest()}. " + _ADVICE[self._last.step > 0]
            )

    def requests(self, last: bool) -> tuple[bool, bool]:
        """Return (stop, save): what the processes agreed to do now.

        Args:
            last: whether this is the run's last step; its flags are read at once.
        """
        here = self._last is not None and (last or self._last.stop.here)
        known = self._last if here else self._before
        return (False, False) if known is None else (bool(known.stop.read()), bool(known.due.read()))

    def saved(self) -> None:
        """Note that a snapshot was written."""
        self._saved = time.monotonic()
        if self._last is not None:
            self._last = self._last._replace(due=Late(torch.zeros(())))

    def preempt(self, step: int, total: int) -> NoReturn:
        """Wait for the other processes, then stop.

        Raises:
            Preempted: always.
        """
        number = self._stop.number or signal.SIGTERM
        self._machine.wait_for_all()
        where = f"by {signal.Signals(number).name} at step {step} of {total}"
        raise Preempted(f"stopped {where} with a snapshot; the same command continues there", number)
