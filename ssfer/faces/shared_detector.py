"""One detector a GPU for many processes: each takes a gigabyte, and several on a GPU would slow each other down.

The workers decode photos and cut crops. A separate process for each GPU owns the detectors and handles one call after
the other; each call has a whole window of photos, which is a large batch.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle
from multiprocessing.connection import Connection
from multiprocessing.managers import BaseManager
from typing import Any

import torch
from PIL import Image

from ssfer.core.errors import SsferError
from ssfer.core.process_pool import end_with_parent
from ssfer.faces.detectors.base import Detection, Detector

Build = Callable[[], Detector]


class RemoteDetector(Detector):
    """A detector that lives in another process.

    Args:
        owners: proxies of `Owner`s of the same detector, which take turns.
    """

    title, paper = "remote", ""

    def __init__(self, *owners: Any) -> None:
        first = os.getpid() % len(owners)  # the workers of a run start at different ones
        self._owners = cycle(owners[first:] + owners[:first])
        self.name = self._ask("detector_name")

    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        """See `Detector.detect`."""
        found: list[Detection] = self._ask("detect", list(images))
        return found

    def detect_large(self, images: Sequence[Image.Image], sides: Sequence[float]) -> list[Detection]:
        """See `Detector.detect_large`."""
        found: list[Detection] = self._ask("detect_large", list(images), list(sides))
        return found

    def _ask(self, method: str, *args: Any) -> Any:
        try:
            return getattr(next(self._owners), method)(*args)
        except (EOFError, ConnectionError) as error:
            raise SsferError(
                "the process that detects faces was killed, most likely for lack of memory; run again with a smaller "
                "machine.num_workers (finished parts are kept)"
            ) from error


class Owner:
    """Holds the detector in its process: builds it on the first call; handles one call at a time."""

    def __init__(self, build: Build) -> None:
        self._build, self._lock = build, threading.Lock()
        self._detector: Detector | None = None

    def detector_name(self) -> str:
        """Return the detector's name."""
        with self._lock:
            return self._built().name

    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        """See `Detector.detect`."""
        with self._lock:
            return self._built().detect(images)

    def detect_large(self, images: Sequence[Image.Image], sides: Sequence[float]) -> list[Detection]:
        """See `Detector.detect_large`."""
        with self._lock:
            return self._built().detect_large(images, sides)

    def _built(self) -> Detector:
        if self._detector is None:
            self._detector = self._build()
        return self._detector


class _Server(BaseManager):
    """The process that owns the detectors."""


_Server.register("own", Owner, exposed=("detect", "detect_large", "detector_name"))


@contextmanager
def shared_detectors(builds: Sequence[Build], gpus: int) -> Iterator[list[Build]]:
    """Yield functions that build proxies of detectors, in the order of `builds`, which other processes own.

    Args:
        builds: picklable.
        gpus: how many processes own the detectors; of several, each sees one GPU only.
    """
    alive, held = multiprocessing.Pipe(duplex=False)  # its other end closes when this process ends, however it does
    seen = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu] or list(map(str, range(gpus)))
    with ExitStack() as stack:
        stack.callback(alive.close)
        stack.callback(held.close)
        servers = [_Server(ctx=multiprocessing.get_context("spawn")) for _ in range(gpus)]
        for server, gpu in zip(servers, seen, strict=False):
            server.start(_start, (alive, gpu if gpus > 1 else None))
            stack.callback(server.shutdown)
        yield [
            partial(RemoteDetector, *(server.own(build) for server in servers))  # type: ignore[attr-defined]
            for build in builds
        ]


def _start(alive: Connection, gpu: str | None) -> None:
    torch.set_num_threads(1)  # as in the workers: the number of threads may change the last bit
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # CUDA starts later, in this process too
    end_with_parent(alive)
