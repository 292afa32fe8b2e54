"""Workers that do what those of a cluster may do, in this process."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any


class Scattered:
    """Hands out several tasks before the first ends, lets them end in any order, and gives each a copy of its own.

    Args:
        seed: of the order.
        window: tasks that are handed out at once.
        number: see `ssfer.core.workers.Workers`.
    """

    threads = 1

    def __init__(self, seed: int = 0, window: int = 4, number: int = 1) -> None:
        self._random, self._window, self.number = random.Random(seed), window, number
        self.done = 0

    def device(self, setting: str) -> str:
        return "cpu"

    def map(
        self, work: Callable[[Any, Any], Any], shared: Any, tasks: Iterable[Any], gpu: bool = False
    ) -> Iterator[tuple[Any, Any]]:
        data, waiting = pickle.dumps((work, shared)), iter(tasks)
        while some := list(islice(waiting, self._window)):
            self._random.shuffle(some)
            for task in some:
                run, copy = pickle.loads(data)
                self.done += 1
                yield task, run(copy, pickle.loads(pickle.dumps(task)))
