"""What works on tasks: this process, or the nodes of a Ray cluster (`ssfer.core.cluster`)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, TypeVar

from ssfer.core.cluster_start import ray_cluster
from ssfer.core.process import available_cpus, worker_count

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers(Protocol):
    """What works on tasks."""

    @property
    def number(self) -> int:
        """How many tasks are worked on at once."""

    @property
    def threads(self) -> int:
        """Threads that a task may use."""

    def device(self, setting: str) -> str:
        """Return `machine.device` as it is for a task."""

    def map(
        self, work: Callable[[Shared, Task], Result], shared: Shared, tasks: Iterable[Task], gpu: bool = False
    ) -> Iterator[tuple[Task, Result]]:
        """Yield every task with `work(shared, task)`, in the order in which they end; see `Cluster.map`."""


class Here:
    """Works on one task after the other in this process, with threads on all CPUs."""

    number = 1

    @property
    def threads(self) -> int:
        """See `Workers.threads`."""
        return available_cpus()

    def device(self, setting: str) -> str:
        """See `Workers.device`."""
        return setting

    def map(
        self, work: Callable[[Shared, Task], Result], shared: Shared, tasks: Iterable[Task], gpu: bool = False
    ) -> Iterator[tuple[Task, Result]]:
        """See `Workers.map`; tasks end in their order."""
        for task in tasks:
            yield task, work(shared, task)


HERE = Here()


@contextmanager
def workers_of(cluster: str | None, processes: Literal["auto"] | int, label: str) -> Iterator[Workers]:
    """Yield what works by `machine.cluster`.

    Args:
        cluster: null: this process | ray.
        processes: of a Ray that is started here, as `machine.num_workers` says.
        label: of the stage, for the line that says which cluster works.

    Raises:
        SsferError: see `ray_cluster`.
    """
    if cluster is None:
        yield HERE
        return
    with ray_cluster(worker_count(processes)) as joined:
        print(f"{label}: {joined}", file=sys.stderr, flush=True)
        yield joined
