"""Every image of a data set read once, in worker processes; what is kept of it are a few dozen bytes per image.

The pictures that confirm near copies, 32 x 32 grey values, go to a temporary file without a name, which vanishes with
the process: at a million images it has 1 GB in the folder for temporary files (TMPDIR), not in memory.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ssfer.core import images
from ssfer.core.errors import SsferError
from ssfer.core.progress import Progress
from ssfer.datasets.base import FileTooLarge, RawRecord, Source
from ssfer.formats.manifest import STATUSES

SIDE = 32
# The shipped value of align.max_pixels: what is too large here is too large there.
MAX_PIXELS = 50_000_000
_CHUNK = 256
OK = STATUSES.index("ok")


@dataclass
class Columns:
    """What the scan keeps, one row per record."""

    status: np.ndarray  # (n,) uint8, index into manifest.STATUSES
    sha: np.ndarray  # (n, 32) uint8, of the file's bytes; zero when it could not be read
    pixels: np.ndarray  # (n, 32) uint8, of the upright RGB pixels; zero when it could not be decoded
    phash: np.ndarray  # (n,) uint64; 0 likewise
    size: np.ndarray  # (n, 2) int32, width and height
    matrix: np.ndarray | None = None  # (n, 6) float64, photo -> SIDE px picture, where the picture is a crop of it

    @classmethod
    def empty(cls, rows: int) -> Columns:
        """Return zeros."""
        return cls(
            np.zeros(rows, np.uint8),
            np.zeros((rows, 32), np.uint8),
            np.zeros((rows, 32), np.uint8),
            np.zeros(rows, np.uint64),
            np.zeros((rows, 2), np.int32),
        )

    def put(self, start: int, part: Columns) -> None:
        """Write the rows of `part` from row `start` on."""
        rows = slice(start, start + len(part.status))
        for name in ("status", "sha", "pixels", "phash", "size"):
            getattr(self, name)[rows] = getattr(part, name)


class Pictures:
    """Small grey pictures by row, in a nameless temporary file.

    Written with write(), not through the mapping: a full disk is then an OSError instead of a killed process.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="ssfer-doctor-")  # noqa: SIM115 - lives as long as this object
        self._rows = 0

    def add_rows(self, rows: int) -> int:
        """Make room for some more rows (holes in the file until they are written); return the first one's number."""
        first = self._rows
        self._rows += rows
        self._file.truncate(self._rows * SIDE * SIDE)
        return first

    def write(self, row: int, pictures: np.ndarray) -> None:
        """Write (k, SIDE, SIDE) uint8 from `row` on."""
        self._file.seek(row * SIDE * SIDE)
        self._file.write(pictures.tobytes())
        self._file.flush()

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return (k, SIDE, SIDE) uint8."""
        mapped = np.memmap(self._file, np.uint8, "r", shape=(self._rows, SIDE, SIDE))
        return np.array(mapped[rows])


def small_picture(image: Image.Image) -> np.ndarray:
    """Return the whole image as (SIDE, SIDE) uint8 grey values, each the mean of what it covers."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def look_at(source: Source, records: Sequence[RawRecord]) -> tuple[Columns, np.ndarray]:
    """Read and decode some records; return their columns and their pictures (k, SIDE, SIDE). No image can stop it."""
    columns = Columns.empty(len(records))
    pictures = np.zeros((len(records), SIDE, SIDE), np.uint8)
    for i, record in enumerate(records):
        status = "ok"
        try:
            data = source.read(record)
        except FileTooLarge:
            status = "too_large"
        except Exception:  # a damaged archive member raises anything; it is one image among many
            status = "unreadable"
        else:
            columns.sha[i] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
            decoded = images.decode(data, MAX_PIXELS)
            status = decoded.status
            if decoded.image is not None:
                columns.pixels[i] = np.frombuffer(bytes.fromhex(images.pixel_sha256(decoded.image)), np.uint8)
                columns.phash[i] = int(images.phash(decoded.image), 16)
                columns.size[i] = decoded.image.size
                pictures[i] = small_picture(decoded.image)
        columns.status[i] = STATUSES.index(status)
    return columns, pictures


def read_photo(source: Source, record: RawRecord) -> Image.Image | None:
    """Return the whole upright photo, or None when it cannot be read."""
    try:
        return images.decode(source.read(record), MAX_PIXELS).image
    except Exception:  # as in `look_at`
        return None


def scan(
    source: Source, records: Sequence[RawRecord], pictures: Pictures, first: int, workers: int, name: str
) -> Columns:
    """Read every record once; pictures go to the rows `first` and following.

    Raises:
        SsferError: a worker process was killed.
    """
    columns = Columns.empty(len(records))
    chunks = [records[i : i + _CHUNK] for i in range(0, len(records), _CHUNK)]
    results = _here(source, chunks) if workers == 1 or len(chunks) == 1 else _in_processes(source, chunks, workers)
    start = 0
    with Progress(f"reading {name}", len(records)) as progress:
        for part, small in results:
            columns.put(start, part)
            pictures.write(first + start, small)
            start += len(part.status)
            progress.advance(len(part.status))
    return columns


def cpus() -> int:
    """Return the number of CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _here(source: Source, chunks: Sequence[Sequence[RawRecord]]) -> Iterator[tuple[Columns, np.ndarray]]:
    yield from (look_at(source, chunk) for chunk in chunks)


def _in_processes(
    source: Source, chunks: Sequence[Sequence[RawRecord]], workers: int
) -> Iterator[tuple[Columns, np.ndarray]]:
    """Yield the results in the order of the chunks; a few chunks are ahead, so that memory stays bounded."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(source,)) as pool:
        running: deque[Future[Any]] = deque()
        try:
            for chunk in chunks:
                running.append(pool.submit(_work, chunk))
                if len(running) > 2 * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool as error:
            raise SsferError(
                "a worker process died, most likely for lack of memory; run again with fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_source: Source | None = None


def _start(source: Source) -> None:
    global _source
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _source = source


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(chunk: Sequence[RawRecord]) -> tuple[Columns, np.ndarray]:
    assert _source is not None
    return look_at(_source, chunk)
