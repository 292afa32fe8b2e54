"""All stages of a small project on a device: killed and resumed, and with every way of starting the loader's workers.

    python -m benchmarks.stage_runs kill OUT --device cuda       # makes OUT/project
    python -m benchmarks.stage_runs workers OUT --device cuda    # uses it

`kill` runs the stages from rendering to robustness, as DVC starts them. Then each training stage runs again, is killed
(kill -9) after its first snapshot, and resumed. `workers` trains `pretrain` again with workers, started by fork,
forkserver and spawn, and watches /dev/shm, of which batches need nothing (Docker gives a container 64 MB).

A run passes with the bytes of the undisturbed one. A GPU may add up in another order, so there the undisturbed stage
runs a second time, and the weights may differ as much as those two runs, times SPREAD, plus LEAST.
"""

from __future__ import annotations

import argparse
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.fault_stages import (
    OUTPUTS,
    STAGES,
    Ended,
    Run,
    clear,
    new_project,
    outputs,
    prepare,
    run,
    snapshots,
    write_params,
)
from benchmarks.mae_setup import print_table
from ssfer.core.errors import SsferError
from ssfer.core.process import stage_main
from ssfer.formats.weights import load_weights

TRAINING = ("pretrain", "finetune", "semisup")
STARTS = ("fork", "forkserver", "spawn")
SPREAD, LEAST = 3.0, 1e-3
PATIENT = 1200.0  # seconds for a stage on a busy machine; gpu_day's own limits are shorter
TRIES = 5  # a run may end before the kill reaches it
MIB = 2**20
SHARED = Path("/dev/shm")
MOST_SHARED = 32 * MIB  # other programs may use some meanwhile


class Apart(NamedTuple):
    """Weights of two runs: whether the files have the same bytes, and the largest distance over the norm of a file."""

    same: bool
    distance: float


def weights(project: Path, stage: str) -> dict[str, torch.Tensor]:
    """Return all weights of every file of a stage as one vector (N,), float64."""
    files = sorted((project / OUTPUTS[stage][0]).glob("*.safetensors"))
    return {f.name: torch.cat([t.flatten().double() for t in load_weights(f)[0].values()]) for f in files}


def apart(first: Path, second: Path, stage: str) -> Apart:
    """Compare what a stage wrote in two projects.

    Raises:
        SsferError: other files, or weights of other sizes.
    """
    one, two = weights(first, stage), weights(second, stage)
    if not one or {n: v.shape for n, v in one.items()} != {n: v.shape for n, v in two.items()}:
        raise SsferError(
            f"{stage} wrote {', '.join(two) or 'nothing'}, the undisturbed run {', '.join(one) or 'nothing'}"
        )
    distance = max(float((one[n] - two[n]).norm() / one[n].norm()) for n in one)
    return Apart(outputs(first, stage) == outputs(second, stage), distance)


def finished(ended: Ended, what: str) -> Ended:
    """Return a run that has ended well.

    Raises:
        SsferError: it has not.
    """
    if ended.status is None:
        raise SsferError(f"{what} was not done after {ended.seconds:.0f} s")
    if ended.status != 0:
        print(ended.said, flush=True)
        raise SsferError(f"{what} ended with status {ended.status}; its output is above")
    return ended


class Project:
    """The undisturbed project in a folder, and copies of it.

    Args:
        folder: where it is.
        device: as in machine.device.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device
        self._noise: dict[str, float] = {}

    def make(self, raw: Path | None) -> dict[str, float]:
        """Run all stages; return the seconds of each.

        Args:
            raw: what `generate` writes, made elsewhere; None: it runs as well.

        Raises:
            SsferError: a stage failed.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        new_project(self.folder, machine={"device": self.device})
        if raw is not None:
            shutil.copytree(raw, self.folder / OUTPUTS["generate"][0])
        return {s: finished(run(self.folder, s, PATIENT), s).seconds for s in STAGES if raw is None or s != "generate"}

    def copy(self, name: str, stage: str, **machine: object) -> Path:
        """Return a copy, without what a stage wrote, with changed settings of the machine."""
        folder = self.folder.with_name(name)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder, folder, symlinks=True)
        write_params(folder, machine={"device": self.device, **machine})
        clear(folder, stage)
        return folder

    def judge(self, folder: Path, stage: str) -> str:
        """Compare what a stage wrote in a copy with the undisturbed run.

        Raises:
            SsferError: other weights than the device's rounding explains.
        """
        found = apart(self.folder, folder, stage)
        if found.same:
            return "same bytes"
        if self.device == "cpu":
            raise SsferError(f"{stage}: other bytes than the undisturbed run; weights differ by {found.distance:.1e}")
        if stage not in self._noise:
            again = self.copy("again", stage)
            finished(run(again, stage, PATIENT), stage)
            self._noise[stage] = apart(self.folder, again, stage).distance
        noise = self._noise[stage]
        text = f"weights differ by {found.distance:.1e}, those of two undisturbed runs by {noise:.1e}"
        if found.distance > SPREAD * noise + LEAST:
            raise SsferError(f"{stage}: {text}")
        return text


def kill_and_resume(project: Project, stage: str) -> tuple[str, str]:
    """Kill a training stage after its first snapshot and run it again; return where it continued, and the verdict.

    Raises:
        SsferError: it ended before it could be killed, it did not continue, or its weights differ.
    """
    for _ in range(TRIES):
        folder = project.copy("killed", stage)
        process = Run(folder, stage)
        while process.alive() and not snapshots(folder, stage):
            time.sleep(0.002)
        process.stop()
        if snapshots(folder, stage):
            break
        finished(process.wait(), f"{stage}, to be killed,")
    else:
        raise SsferError(f"{stage} ended {TRIES} times before it could be killed")
    resumed = finished(run(folder, stage, PATIENT), f"{stage}, resumed,")
    where = re.search(r"continues at ([\d,]+ of [\d,]+)", resumed.said)
    if where is None:
        raise SsferError(f"{stage} started anew after kill -9, although there was a snapshot")
    return where[1], project.judge(folder, stage)


@contextmanager
def watch_shared_memory() -> Iterator[list[int]]:
    """Measure /dev/shm while something runs; the list has the most bytes in use beyond those at first."""
    most, over = [0], threading.Event()

    def used() -> int:
        return shutil.disk_usage(SHARED).used if SHARED.is_dir() else 0

    def watch(first: int) -> None:
        while not over.wait(0.01):
            most[0] = max(most[0], used() - first)

    thread = threading.Thread(target=watch, args=(used(),))
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def with_workers(project: Project, start: str, workers: int) -> tuple[float, float, str]:
    """Train `pretrain` with so many workers; return its seconds, MiB of /dev/shm, and the verdict.

    Raises:
        SsferError: it failed, its weights differ, or it fills /dev/shm.
    """
    folder = project.copy("workers", "pretrain", num_workers=workers, start_method=start)
    with watch_shared_memory() as most:
        ended = finished(run(folder, "pretrain", PATIENT), f"pretrain with workers by {start}")
    if most[0] > MOST_SHARED:
        raise SsferError(f"pretrain with workers by {start} took {most[0] / MIB:.0f} MiB of /dev/shm; expected none")
    return ended.seconds, most[0] / MIB, project.judge(folder, "pretrain")


def main() -> None:
    """Run, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kill", "workers"])
    parser.add_argument("out", type=Path, help="folder for the projects")
    parser.add_argument("--device", default="cpu", help="cpu (default) | cuda")
    parser.add_argument(
        "--raw", type=Path, help="rendered photos: data/raw/synthetic of a project; default: render some"
    )
    parser.add_argument("--workers", type=int, default=2, help="of `workers` (default 2)")
    args = parser.parse_args()
    project = Project(args.out.resolve() / "project", args.device)
    prepare()
    if args.what == "kill":
        seconds = project.make(args.raw)
        print_table(["stage", "s"], [[stage, f"{took:.1f}"] for stage, took in seconds.items()])
        print()
        print_table(["killed", "continued at", "compared with the undisturbed run"], [])
        for stage in TRAINING:
            print(f"| {stage} | {' | '.join(kill_and_resume(project, stage))} |", flush=True)
    else:
        if not (project.folder / OUTPUTS["pretrain"][0]).is_dir():
            raise SsferError(f"{project.folder} has no trained project; run `kill {args.out}` first")
        print_table(["workers by", "s", "/dev/shm, MiB", "compared with no workers"], [])
        for start in STARTS:
            took, shared, verdict = with_workers(project, start, args.workers)
            print(f"| {start} | {took:.1f} | {shared:.1f} | {verdict} |", flush=True)


if __name__ == "__main__":
    stage_main("stage_runs", main)
