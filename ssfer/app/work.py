"""A bounded queue of requests for one thread: a network uses all cores for one picture, so more would not help."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Busy(Exception):
    """The allowed number of requests is already uploaded, waiting or processed."""


class Line:
    """A bounded queue; use it from one event loop.

    Args:
        places: most requests in it at the same time.
        seconds: a request may wait and be processed.
    """

    def __init__(self, places: int, seconds: float) -> None:
        self._free, self._seconds = places, seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predict")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the queue.

        Raises:
            Busy: none is free.
        """
        if not self._free:
            raise Busy
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

    async def run(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, called in the thread in the order of the calls of this method.

        Raises:
            TimeoutError: it took too long; work that has begun continues, and its result is dropped.
        """
        future = asyncio.wrap_future(self._thread.submit(work))
        return await asyncio.wait_for(future, self._seconds)
