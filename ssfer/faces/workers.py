"""Chunks of one source as units of work, run here or in worker processes.

Every worker computes with one thread, so that the bytes of a chunk do not depend on how many there are.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import torch
from filelock import FileLock, Timeout

from ssfer.config.schema import AlignParams
from ssfer.config.sources import SourceParams
from ssfer.core.errors import SsferError
from ssfer.core.process import available_cpus
from ssfer.datasets.base import RawRecord, Source
from ssfer.faces.crops import FaceProcessor
from ssfer.faces.detectors.build import Detector
from ssfer.formats.manifest import write_manifest
from ssfer.formats.shards import ShardWriter


@dataclass(frozen=True)
class Chunk:
    """One unit of work and resumption: some records, and where their shard and manifest part go."""

    index: int
    records: Sequence[RawRecord]
    folder: Path

    @property
    def shard(self) -> Path:
        return self.folder / f"shard-{self.index:05d}.tar"

    @property
    def part(self) -> Path:
        return self.folder / f"part-{self.index:05d}.parquet"

    def is_done(self) -> bool:
        return self.part.exists() and self.shard.exists()  # the part is written last

    def lock(self) -> FileLock:
        """Return the lock of whoever works on it; a dead process holds none."""
        return FileLock(self.part.with_suffix(".lock"), timeout=0)

    def is_free(self) -> bool:
        """Tell whether there is something to do and nobody at it."""
        try:
            with self.lock():
                return not self.is_done()
        except Timeout:
            return False


@dataclass(frozen=True)
class Job:
    """What a worker process needs to know; picklable."""

    source: Source
    params: SourceParams
    align: AlignParams
    detector: Callable[[], Detector]

    def run(self, chunk: Chunk, detector: Detector) -> bool:
        """Write a chunk's shard and manifest part unless they are there; return False if another process is at it."""
        try:
            with chunk.lock():
                if not chunk.is_done():
                    self._write(chunk, detector)
                return True
        except Timeout:
            return False

    def _write(self, chunk: Chunk, detector: Detector) -> None:
        processor = FaceProcessor(self.params.name, self.params.align, self.align, detector)
        rows = []
        with ShardWriter(chunk.shard) as shard:
            for i, face in enumerate(processor.process(chunk.records, self.source.read)):
                if face.jpeg is not None:
                    name = f"{chunk.index * self.align.shard_size + i:09d}.jpg"
                    face.row.update(zip(("shard", "offset", "size"), shard.add(name, face.jpeg), strict=True))
                rows.append(face.row)
        write_manifest(rows, chunk.part)


def worker_count(setting: Literal["auto"] | int) -> int:
    """Return the number of processes for `machine.num_workers`; auto is one per CPU this process may use."""
    return available_cpus() if setting == "auto" else setting


def detection_device(setting: Literal["auto", "cpu", "cuda"]) -> str:
    """Return the detector's device for `machine.device`: with several ranks on a machine each takes its own GPU."""
    if setting == "cpu" or (setting == "auto" and not torch.cuda.is_available()):
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def in_this_process(job: Job, todo: Sequence[Chunk]) -> Iterator[Chunk]:
    """Run the chunks here, one thread; yield each that is done."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    _single_thread()
    try:
        detector = job.detector()
        for chunk in todo:
            if job.run(chunk, detector):
                yield chunk
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def in_processes(job: Job, todo: Sequence[Chunk], workers: int) -> Iterator[Chunk]:
    """Run the chunks in worker processes; yield each that is done.

    Raises:
        SsferError: a worker was killed.
    """
    # Not 'fork': torch, OpenCV and CUDA do not survive it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(todo)), mp_context=context, initializer=_start, initargs=(job,)) as pool:
        queue = iter(todo)
        running: dict[Future[bool], Chunk] = {}
        try:
            while True:
                # A few chunks ahead only: their records are pickled when they are handed over.
                for chunk in queue:
                    running[pool.submit(_work, chunk)] = chunk
                    if len(running) > workers:
                        break
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    chunk = running.pop(future)
                    if future.result():
                        yield chunk
        except BrokenProcessPool as error:
            raise SsferError(
                "a worker process died, most likely for lack of memory; run again with a smaller machine.num_workers "
                "(finished parts are kept)"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_worker: tuple[Job, Detector] | SsferError | None = None


def _start(job: Job) -> None:
    global _worker
    _single_thread()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _worker = (job, job.detector())
    except SsferError as error:  # weights are missing, say: told with the first chunk, where a sentence gets through
        _worker = error


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers, and they must not go on writing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(chunk: Chunk) -> bool:
    if isinstance(_worker, SsferError):
        raise _worker
    assert _worker is not None
    job, detector = _worker
    return job.run(chunk, detector)


def _single_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
