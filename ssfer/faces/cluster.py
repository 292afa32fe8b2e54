"""Chunks of one source on a Ray cluster: any node decodes, detects and crops; this process writes the files.

On GPUs a process on each holds the detectors, and tasks on the CPUs decode for it. A chunk's bytes are those that local
processes make (`ssfer.faces.workers`); a node with other raw data or other packages is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ssfer.core.cluster import Cluster, Held
from ssfer.core.cluster_node import node_address
from ssfer.core.errors import SsferError
from ssfer.core.files import write_bytes
from ssfer.faces.shared_detector import Build, Owner, RemoteDetector
from ssfer.faces.workers import Chunk, Job, one_thread


@dataclass(frozen=True)
class ClusterNodes:
    """Executor of chunks on the nodes of a Ray cluster.

    Attributes:
        cluster: which this process has joined.
        device: cpu, or cuda: all GPUs of the cluster detect.
    """

    cluster: Cluster
    device: str

    @contextmanager
    def detectors(self, builds: Sequence[Build]) -> Iterator[list[Build]]:
        """Yield functions that build the detectors of a task: their own, or proxies of those on the GPUs."""
        if self.device == "cpu":
            yield list(builds)
            return
        with self.cluster.held(partial(_Owners, builds), self.cluster.gpus) as held:
            yield [partial(RemoteDetector, _OnGpus(held, i)) for i in range(len(builds))]

    def run(self, job: Job, todo: Sequence[Chunk]) -> Iterator[Chunk]:
        """Run the chunks and write their files; yield each that is done.

        Raises:
            SsferError: a node sees other raw data or has other packages, or processes were lost again and again.
        """
        tasks = (Task(chunk, stamps(job, chunk)) for chunk in todo)
        for task, (shard, part) in self.cluster.map(make, job, tasks):
            write_bytes(task.chunk.shard, shard)
            write_bytes(task.chunk.part, part)
            task.chunk.seal()
            yield task.chunk


@dataclass(frozen=True)
class Task:
    """A chunk, and the stamps of its raw data as the driver sees them."""

    chunk: Chunk
    stamps: list[str]


def make(job: Job, task: Task) -> tuple[bytes, bytes]:
    """Return the bytes of a chunk's shard and of its part of the manifest."""
    _check_raw(job, task)
    with one_thread(), TemporaryDirectory(prefix="ssfer-align-") as folder:
        chunk = replace(task.chunk, folder=Path(folder))
        job.write(chunk)
        return chunk.shard.read_bytes(), chunk.part.read_bytes()


def _check_raw(job: Job, task: Task) -> None:
    """Check the raw data of this node: photos that it cannot see would count as unreadable."""
    if stamps(job, task.chunk) != task.stamps:
        raise SsferError(
            f"node {node_address()} of the Ray cluster does not see the raw data of source '{job.params.name}' as the "
            f"node that runs align does ({task.chunk.records[0].path}); share the same folder with all nodes, then run "
            "again: finished parts are kept"
        )


def stamps(job: Job, chunk: Chunk) -> list[str]:
    """Return the stamps of a chunk's first and last photo; all of a million would take minutes on a network's disk."""
    return [job.source.stamp(record) for record in (chunk.records[0], chunk.records[-1])]


class _Owners:
    """The detectors that one process on a GPU holds."""

    def __init__(self, builds: Sequence[Build]) -> None:
        torch.set_num_threads(1)  # as in local processes: the number of threads may change the last bit
        self._owners = [Owner(build) for build in builds]

    def ask(self, which: int, method: str, *args: Any) -> Any:
        return getattr(self._owners[which], method)(*args)


@dataclass(frozen=True)
class _OnGpus:
    """Proxy of an `Owner`, of which each GPU has one."""

    held: Held
    which: int

    def detector_name(self) -> str:
        return str(self.held.call("ask", self.which, "detector_name"))

    def detect(self, images: list[Any]) -> Any:
        return self.held.call("ask", self.which, "detect", images)

    def detect_large(self, images: list[Any], sides: list[float]) -> Any:
        return self.held.call("ask", self.which, "detect_large", images, sides)
