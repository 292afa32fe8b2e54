"""Requests in a bounded line before one thread: networks use all cores for one picture, more threads would not help."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Busy(Exception):
    """As many requests as allowed are read, waiting or worked on."""


class Line:
    """Bounded line; to be used from one event loop.

    Args:
        places: requests in it at the same time.
        seconds: a request may wait and be worked on.
    """

    def __init__(self, places: int, seconds: float) -> None:
        self._free, self._seconds = places, seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predict")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the line.

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
            TimeoutError: it took too long; work that has begun goes on, what it returns is dropped.
        """
        future = asyncio.wrap_future(self._thread.submit(work))
        return await asyncio.wait_for(future, self._seconds)
