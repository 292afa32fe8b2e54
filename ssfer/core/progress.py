"""Progress with rate and time left: one live line in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

T = TypeVar("T")
PLAIN_SECONDS = 30.0  # between lines when the output is not a terminal


class Cost(NamedTuple):
    """Floating-point operations of one item, and the most that all devices together compute in a second."""

    per_item: float
    peak: float

    def utilization(self, rate: float) -> float:
        """Return the share of the peak that `rate` items a second use."""
        return rate * self.per_item / self.peak


class Progress:
    """Context manager around a loop of `total` rounds.

    Args:
        label: what is being done.
        total: number of rounds, including the `done` ones of an earlier run; None: not known.
        per_step: items per round, for the rate.
        unit: name of the items.
        cost: operations; then the rate is also shown as a share of the devices' peak.
        enabled: False in all processes but the first.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        *,
        done: int = 0,
        per_step: int = 1,
        unit: str = "images",
        cost: Cost | None = None,
        enabled: bool = True,
    ) -> None:
        self.label, self.total, self.done, self.per_step, self.unit = label, total, done, per_step, unit
        self.cost = cost
        self.enabled, self._first, self._note = enabled, done, ""
        console = Console(file=sys.stderr)
        self._bar = None
        if enabled and console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = RichProgress(
                *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console
            )

    def __enter__(self) -> Progress:
        self._start = self._printed = time.monotonic()
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.done, note="")
        elif self.enabled and self.done:
            self._print(f"continues at {self._count(' of ')}")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.enabled and kind is None:
            self._print(f"{self._count()} {self._status(final=True)}")

    def note(self, text: str) -> None:
        """Set a remark shown beside the bar."""
        self._note = text

    def advance(self, rounds: int = 1) -> None:
        """Count finished rounds."""
        self.done += rounds
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=f"{self._speed()}  {self._note}")
        elif self.enabled and time.monotonic() - self._printed > PLAIN_SECONDS:
            self._printed = time.monotonic()
            self._print(f"{self._count()} {self._status()}")

    def _count(self, between: str = "/") -> str:
        return str(self.done) if self.total is None else f"{self.done}{between}{self.total}"

    def _speed(self) -> str:
        rate = (self.done - self._first) * self.per_step / max(time.monotonic() - self._start, 1e-9)
        used = "" if self.cost is None else f" ({self.cost.utilization(rate):.0%} of matrix-product speed)"
        return f"{rate:{'.0f' if rate >= 10 else '.2g'}} {self.unit}/s{used}"

    def _status(self, final: bool = False) -> str:
        spent = time.monotonic() - self._start
        if final or self.total is None:
            when = f"in {clock(spent)}"
        else:
            when = f"{clock(spent / max(self.done - self._first, 1) * (self.total - self.done))} left"
        return f"{self._speed()}, {when}" + (f", {self._note}" if self._note else "")

    def _print(self, text: str) -> None:
        print(f"{self.label}: {text}", file=sys.stderr, flush=True)


def track(iterable: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield from `iterable` and show progress."""
    with Progress(label, total, unit="images") as progress:
        for item in iterable:
            yield item
            progress.advance()


def clock(seconds: float) -> str:
    """Return a duration as minutes:seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
