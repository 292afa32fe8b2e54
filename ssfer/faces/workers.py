"""Chunks of one source as units of work, run here or in worker processes; `ssfer.faces.cluster` runs them on nodes.

Every worker computes with one thread, so that the bytes of a chunk do not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import cv2
import torch

from ssfer.core.device import device_errors
from ssfer.core.errors import SsferError
from ssfer.core.files import read_json, sha256_file, write_json
from ssfer.core.process_pool import map_in_processes
from ssfer.datasets.base import RawRecord, Source, SourceSettings
from ssfer.faces.crops import FaceProcessor
from ssfer.faces.detectors.base import Detector
from ssfer.faces.settings import AlignSettings
from ssfer.faces.shared_detector import Build, shared_detectors
from ssfer.formats.manifest import write_manifest
from ssfer.formats.shards import PLACE, ShardWriter, crc32


@dataclass(frozen=True)
class Chunk:
    """One unit of work and resumption: some records, and where their shard and manifest part go."""

    index: int
    records: Sequence[RawRecord]
    folder: Path

    @property
    def shard(self) -> Path:
        """The shard that holds the chunk's crops."""
        return self.folder / f"shard-{self.index:05d}.tar"

    @property
    def part(self) -> Path:
        """The chunk's part of the manifest."""
        return self.folder / f"part-{self.index:05d}.parquet"

    @property
    def sums(self) -> Path:
        """The checksums of both files."""
        return self.folder / f"part-{self.index:05d}.json"

    def is_done(self) -> bool:
        """Return whether all files exist; the checksums are written last."""
        return self.sums.exists() and self.part.exists() and self.shard.exists()

    def seal(self) -> None:
        """Write the checksums of shard and manifest part."""
        write_json(self.sums, self._found())

    def is_whole(self) -> bool:
        """Return whether the files of a finished chunk are unchanged."""
        try:
            return bool(read_json(self.sums) == self._found())
        except (SsferError, OSError):
            return False

    def discard(self) -> None:
        """Delete a damaged chunk, so that it is made again."""
        for path in (self.sums, self.part, self.shard):
            path.unlink(missing_ok=True)

    def _found(self) -> dict[str, str]:
        return {"shard": sha256_file(self.shard), "part": sha256_file(self.part)}


@dataclass(frozen=True)
class Job:
    """The job of a worker process; picklable."""

    source: Source
    params: SourceSettings
    align: AlignSettings
    build_detector: Build
    build_second: Build | None = None

    @cached_property
    def detectors(self) -> tuple[Detector, Detector | None]:
        """The detector and the second one, built once in each process, on first use."""
        return self.build_detector(), self.build_second() if self.build_second else None

    def write(self, chunk: Chunk) -> None:
        """Write a chunk's shard and manifest part."""
        rows = []
        with device_errors(), ShardWriter(chunk.shard) as shard:
            processor = FaceProcessor(self.params.name, self.params.align, self.align, *self.detectors)
            for i, face in enumerate(processor.process(chunk.records, self.source.read)):
                if face.jpeg is not None:
                    name = f"{chunk.index * self.align.shard_size + i:09d}.jpg"
                    place = (*shard.add(name, face.jpeg), crc32(face.jpeg))
                    face.row.update(zip(PLACE, place, strict=True))
                rows.append(face.row)
        write_manifest(rows, chunk.part)


class Executor(Protocol):
    """What runs chunks."""

    @property
    def device(self) -> str:
        """The device of the detectors."""

    def detectors(self, builds: Sequence[Build]) -> AbstractContextManager[list[Build]]:
        """Return what yields functions that build the detectors where chunks are run."""

    def run(self, job: Job, todo: Sequence[Chunk]) -> Iterator[Chunk]:
        """Run the chunks; yield each that is done."""


@dataclass(frozen=True)
class LocalProcesses:
    """Executor of chunks in worker processes on this machine.

    Attributes:
        workers: processes; 0 and 1 work in this process.
        device: of the detectors; except on a CPU, all processes share those of each GPU.
        gpus: how many detect, the first ones that torch sees; 1: `device`.
    """

    workers: int = 1
    device: str = "cpu"
    gpus: int = 1

    def detectors(self, builds: Sequence[Build]) -> AbstractContextManager[list[Build]]:
        """See `Executor.detectors`."""
        shared = self.workers > 1 and self.device != "cpu"
        return shared_detectors(builds, self.gpus) if shared else nullcontext(list(builds))

    def run(self, job: Job, todo: Sequence[Chunk]) -> Iterator[Chunk]:
        """Run the chunks; yield each that is done, in order.

        Raises:
            SsferError: a worker was killed.
        """
        advice = "run again with a smaller machine.num_workers (finished parts are kept)"
        yield from map_in_processes(_run, job, todo, self.workers, advice)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, so that the bytes of crops do not depend on the machine's number of CPUs."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _run(job: Job, chunk: Chunk) -> Chunk:
    with one_thread():
        job.write(chunk)
        chunk.seal()
    return chunk
