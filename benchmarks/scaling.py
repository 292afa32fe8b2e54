"""Images per second of MAE pretraining with one process and with several, on the same global batch.

    python -m benchmarks.scaling --model small --batch 32
    python -m benchmarks.scaling --device cuda --processes 1 8 --batch 4096 --warm-up 5 --steps 20 --json scaling.json

Starts every launch itself, by torchrun: gloo on a CPU, NCCL on CUDA. Launches take turns, round by round; figures are
medians over the rounds of the images that all processes together train on in a second. On a CPU each process has as
many threads as there are cores for each of the most processes, and a last row shows what one process does with all
threads. Efficiency is the speed of N processes over N times that of one with as many threads each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.mae_setup import (
    ROOT,
    Setup,
    add_options,
    hardware,
    our_step,
    print_table,
    read_figures,
    read_options,
    write_figures,
)
from ssfer.core.errors import SsferError
from ssfer.core.process import available_cpus, stage_main
from ssfer.train.device import Machine
from ssfer.train.speed import finish


class Launch(NamedTuple):
    """Number of processes, and torch threads in each; None on CUDA, where they do not matter."""

    processes: int
    threads: int | None

    def __str__(self) -> str:
        return f"{self.processes}" + (f", {self.threads} threads each" if self.threads else "")


def launches(processes: Sequence[int], on_cuda: bool, cores: int) -> list[Launch]:
    """Return what to start; the first is one process, to which efficiency refers.

    Raises:
        SsferError: more processes than GPUs or cores.
    """
    counts = sorted({1, *processes})
    places = torch.cuda.device_count() if on_cuda else cores
    if counts[0] < 1 or counts[-1] > places:
        kind = "GPUs" if on_cuda else "cores"
        raise SsferError(f"expected --processes from 1 to {places}, the {kind} of this machine, found {counts[-1]}")
    if on_cuda:
        return [Launch(n, None) for n in counts]
    threads = cores // counts[-1]
    alone = [Launch(1, cores)] if cores > threads else []
    return [Launch(n, threads) for n in counts] + alone


def efficiency(speeds: dict[Launch, float], launch: Launch) -> float:
    """Return a launch's speed divided by its processes times the speed of one process with as many threads."""
    return speeds[launch] / (launch.processes * speeds[Launch(1, launch.threads)])


def start(launch: Launch, options: Sequence[str]) -> float:
    """Start processes and return their images per second in total.

    Raises:
        SsferError: a process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = [*torchrun, f"--nproc-per-node={launch.processes}", "-m", "benchmarks.scaling", *options]
        command += ["--process", "--json", str(file), *([f"--threads={launch.threads}"] if launch.threads else [])]
        env = {**os.environ, "OMP_NUM_THREADS": str(launch.threads or 1)}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("scaling")]
            last = (said or done.stderr.splitlines() or ["no message"])[-1]
            raise SsferError(f"a launch of {launch} ended with status {done.returncode}: {last}")
        return float(read_figures(file)["images_per_second"])


def one_process(setup: Setup, steps: int, warm_up: int, json: Path) -> None:
    """Train as one process of a launch; the first process writes the speed of all."""
    machine = Machine(setup.machine)
    if setup.batch % machine.world:
        raise SsferError(f"--batch {setup.batch} does not divide over {machine.world} processes; change either")
    step = our_step(setup, machine)
    for _ in range(warm_up):
        step()
    finish(machine.device)
    machine.wait_for_all()
    clock = time.perf_counter()
    for _ in range(steps):
        step()
    finish(machine.device)
    machine.wait_for_all()
    clock = time.perf_counter() - clock
    if machine.rank == 0:
        write_figures(json, setup, hardware(machine), {"images_per_second": setup.batch * steps / clock})
    if machine.world > 1:
        torch.distributed.destroy_process_group()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, batch=16)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="numbers of them (default 1 2)")
    parser.add_argument("--steps", type=int, default=3, help="that are timed (default 3)")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before the clock starts (default 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    setup = read_options(args)
    if args.process:
        one_process(setup, args.steps, args.warm_up, args.json)
        return
    on_cuda = args.device != "cpu" and torch.cuda.is_available()
    planned = launches(args.processes, on_cuda, args.threads or available_cpus())
    if any(setup.batch % launch.processes for launch in planned):
        raise SsferError(f"--batch {setup.batch} does not divide over {planned} processes; change either")
    names = ["model", "size", "batch", "device", "precision", "compile", "steps"]
    options = [f"--{name}={getattr(args, name)}" for name in names] + [f"--warm-up={args.warm_up}"]
    where = torch.cuda.get_device_name() if on_cuda else f"CPU with {available_cpus()} cores"
    print(f"{setup.name}, global batch {setup.batch}, {where}, torch {torch.__version__}\n", flush=True)
    turns = [{launch: start(launch, options) for launch in planned} for _ in range(args.rounds)]
    speeds = {launch: float(np.median([turn[launch] for turn in turns])) for launch in planned}
    # Computed per round, because other work on the machine varies over time.
    several = [launch for launch in planned if launch.processes > 1]
    shares = {launch: float(np.median([efficiency(turn, launch) for turn in turns])) for launch in several}
    rows = [[str(n), f"{speeds[n]:.2f}", f"{100 * shares[n]:.0f}%" if n in shares else "-"] for n in planned]
    print_table(["processes", "images/s", "efficiency"], rows)
    most = max(planned, key=lambda launch: launch.processes)
    found = {
        "images_per_second": speeds[planned[0]],
        "processes": most.processes,
        "efficiency": shares.get(most, 1.0),
        "launches": {str(launch): speed for launch, speed in speeds.items()},
    }
    write_figures(args.json, setup, where, found)


if __name__ == "__main__":
    stage_main("scaling", main)
