"""CPU time of aligning rendered photos: in local processes, and on a Ray that is started on this machine.

    python -m benchmarks.cluster
    python -m benchmarks.cluster --photos 5000 --size 350

Both align the same photos with the shipped settings and `--workers` processes, in turns, and must write the same bytes.
CPU time is that of all processes, Ray's own included, so that other work on the machine matters little. Starting Ray is
a row of its own.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from ssfer.config.schema import load_params
from ssfer.core.cluster_start import ray_cluster
from ssfer.core.errors import SsferError
from ssfer.core.process import stage_main
from ssfer.datasets.base import SourceSettings
from ssfer.faces.build import build_faces
from ssfer.faces.cluster import ClusterNodes
from ssfer.faces.workers import Executor, LocalProcesses
from ssfer.rendered.generate import generate
from ssfer.rendered.settings import GenerateSettings


def cpu_seconds() -> float:
    """Return the CPU time of this process, of those that it started, and of theirs; ended ones count if waited for."""
    total, me = 0.0, psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # user, system, and both of ended children
    return total


@contextmanager
def measured(name: str, found: dict[str, list[float]]) -> Iterator[None]:
    """Note the CPU time of a block."""
    cpu, start = cpu_seconds(), time.monotonic()
    yield
    found.setdefault(name, []).append(cpu_seconds() - cpu)
    print(f"{name:16} {found[name][-1]:7.1f} s CPU {time.monotonic() - start:7.1f} s", flush=True)


def align(root: Path, source: SourceSettings, name: str, executor: Executor, shard_size: int) -> None:
    """Align root/photos to root/<name>, from nothing."""
    os.environ["DVC_ROOT"] = str(root / f"project-{name}")
    settings = load_params().align.model_copy(update={"shard_size": shard_size})
    build_faces(source, root / "photos", root / name, settings, executor)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def main() -> None:
    """Render photos, align them both ways and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=600)
    parser.add_argument("--size", type=int, default=96, help="side of a photo, pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--shard-size", type=int, default=50, help="photos of a task")
    given = parser.parse_args()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        settings = GenerateSettings(
            seed=1,
            size=given.size,
            train=0,
            test=0,
            people=given.photos,
            people_identities=given.photos,
            troubles=False,
        )
        generate(settings, root / "photos", workers=given.workers)
        source = SourceSettings(name="people", kind="rendered", path="people", labeled=False, align="similarity")
        for turn in range(given.rounds):
            with measured("local processes", found):
                align(root, source, f"local-{turn}", LocalProcesses(given.workers), given.shard_size)
            with measured("Ray, with start", found), ray_cluster(given.workers) as cluster, measured("Ray", found):
                align(root, source, f"ray-{turn}", ClusterNodes(cluster, "cpu"), given.shard_size)
            if contents(root / f"local-{turn}") != contents(root / f"ray-{turn}"):
                raise SsferError("the two ways wrote different bytes")
    local, ray = (min(found[name]) for name in ("local processes", "Ray"))
    print(f"{given.photos} photos: Ray takes {ray / local:.2f} times the CPU time of local processes, start left out")


if __name__ == "__main__":
    stage_main("benchmarks.cluster", main)
