"""Images per second and memory of a whole MAE training step: ours, and a plain PyTorch MAE in the same run.

    python -m benchmarks.mae_step --threads 2
    python -m benchmarks.mae_step --device cuda --batch 512 --steps 20 --json step.json

A step is forward, backward, gradient norm and optimizer, on images that are already on the device. Ours is the step of
stage `pretrain` (ssfer.train.distributed.Trained: fused attention and AdamW; on CUDA bf16 and, unless --compile false,
compiled; then the uncompiled step is also measured). The plain one is benchmarks/plain_mae.py, in the same precision.
Both and a large matrix product run in turns; results are medians. `per CPU second` counts the CPU time of all threads,
so that other work on the machine matters little. Peak memory is that of a process that does nothing else (on a CPU its
resident set, on CUDA what torch allocated), and the part of it that was added after Python and torch were loaded.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.mae_setup import (
    PEAK_TFLOPS,
    ROOT,
    Setup,
    Step,
    add_options,
    hardware,
    in_bf16,
    our_step,
    plain_step,
    print_table,
    read_options,
    write_figures,
)
from ssfer.core.errors import SsferError
from ssfer.core.process import stage_main
from ssfer.train.device import Machine
from ssfer.train.speed import finish, matmul_rate

PLAIN, OURS, UNCOMPILED = "plain", "ours", "ours, not compiled"


@dataclass(frozen=True)
class Speed:
    """Medians over the rounds.

    Attributes:
        per_second, per_cpu_second: images per second, and per second of CPU time.
        ratio: to the plain step's images per second in the same round; NaN without a plain step.
    """

    per_second: float
    per_cpu_second: float
    ratio: float


def ways(setup: Setup, machine: Machine, names: Sequence[str]) -> dict[str, Step]:
    """Return the steps of these names."""
    made: dict[str, Step] = {}
    for name in names:
        if name == PLAIN:
            made[name] = plain_step(setup, machine)
        elif name == OURS:
            made[name] = our_step(setup, machine)
        else:
            made[name] = our_step(setup, Machine(setup.machine.model_copy(update={"compile": False})))
    return made


def interleaved(
    steps: Mapping[str, Step], setup: Setup, machine: Machine, count: int, rounds: int
) -> tuple[dict[str, Speed], float]:
    """Return the speed of every way, and a matrix product's floating-point operations per second in the same rounds.

    Args:
        steps: by name.
        setup: network and batch size.
        machine: where they run.
        count: steps per turn; as many warm up before the first turn (one on a CPU).
        rounds: in each, all ways have a turn, every other time in reverse order.
    """
    for step in steps.values():
        for _ in range(count if machine.device.type == "cuda" else 1):
            step()
    dtype = torch.bfloat16 if in_bf16(machine) else torch.float32
    turns: list[dict[str, tuple[float, float]]] = []
    products = []
    for turn in range(rounds):
        products.append(matmul_rate(machine.device, dtype))
        order = list(steps) if turn % 2 == 0 else list(steps)[::-1]
        turns.append({name: _timed(steps[name], machine, count) for name in order})
    speeds = {}
    for name in steps:
        wall, cpu = (np.array([t[name][i] for t in turns]) / (count * setup.batch) for i in (0, 1))
        plain = np.array([t[PLAIN][0] for t in turns]) / (count * setup.batch) if PLAIN in steps else wall * np.nan
        speeds[name] = Speed(*(float(np.median(v)) for v in (1 / wall, 1 / cpu, plain / wall)))
    return speeds, float(np.median(products))


def _timed(step: Step, machine: Machine, count: int) -> tuple[float, float]:
    """Return seconds of wall-clock time and of CPU time."""
    finish(machine.device)
    clock, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        step()
    finish(machine.device)
    return time.perf_counter() - clock, time.process_time() - cpu


def peak_memory(machine: Machine) -> int:
    """Return this process's peak memory so far in bytes: of the GPU on CUDA, else its resident set."""
    if machine.device.type == "cuda":
        return torch.cuda.max_memory_allocated(machine.device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):  # not Linux; on Linux ru_maxrss would also count the parent process
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Memory(NamedTuple):
    """Bytes: the peak of a process, and how much of it the step added to what was there before."""

    peak: int
    added: int


def memory_of(name: str, setup: Setup, machine: Machine) -> Memory:
    """Return the memory of two steps of one way; call it in a process that has done nothing else."""
    before = peak_memory(machine)
    step = ways(setup, machine, [name])[name]
    for _ in range(2):  # the moments of AdamW appear in the first
        step()
    finish(machine.device)
    peak = peak_memory(machine)
    return Memory(peak, peak - before)


def memory_alone(name: str, options: Sequence[str]) -> Memory:
    """Return `memory_of` in a new process.

    Args:
        name: of the way.
        options: of this command, which choose network and machine.

    Raises:
        SsferError: the process failed, for example for lack of memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "benchmarks.mae_step", *options, "--only", name, "--json", str(file)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SsferError(f"measuring the memory of '{name}' ended with status {done.returncode}: {last}")
        found = json.loads(file.read_text())
        return Memory(found["peak_bytes"], found["added_bytes"])


def report(
    setup: Setup,
    machine: Machine,
    speeds: Mapping[str, Speed],
    product: float,
    memory: Mapping[str, Memory],
    limit: float,
) -> None:
    """Print the table and the operations per image.

    Args:
        product: floating-point operations per second of a matrix product.
        limit: the GPU's floating-point operations per second, from its data sheet or a published measurement.
    """
    on_cuda = machine.device.type == "cuda"
    head = ["step", "images/s", *([] if on_cuda else ["per CPU second"]), "x plain"]
    head += ["peak memory, MB", "of it the step's"]
    head += ["GFLOP/s", "of a matrix product", *([f"of {limit / 1e12:.0f} TFLOP/s"] if on_cuda else [])]
    rows = []
    for name, speed in speeds.items():
        rate = setup.flops * speed.per_second
        row = [name, f"{speed.per_second:.2f}", *([] if on_cuda else [f"{speed.per_cpu_second:.2f}"])]
        row += [f"{speed.ratio:.2f}", f"{memory[name].peak / 1e6:.0f}", f"{memory[name].added / 1e6:.0f}"]
        row += [f"{rate / 1e9:.1f}", f"{100 * rate / product:.1f}%"]
        rows.append([*row, *([f"{100 * rate / limit:.1f}%"] if on_cuda else [])])
    print_table(head, rows)
    without = setup.layer_flops * speeds[OURS].per_second
    print(
        f"\nAn image costs {setup.flops / 1e9:.1f} GFLOP; a matrix product runs at {product / 1e9:.0f} GFLOP/s. "
        f"Without attention's own products an image\ncosts {setup.layer_flops / 1e9:.1f} GFLOP, and our step reaches "
        f"{100 * without / product:.1f}% of the matrix product"
        + (f", {100 * without / limit:.1f}% of {limit / 1e12:.0f} TFLOP/s." if on_cuda else ".")
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, batch=16)
    parser.add_argument("--steps", type=int, default=1, help="of a turn (default 1)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", type=float, default=PEAK_TFLOPS, help="of the GPU, TFLOP/s (default 790: bf16, H200)")
    parser.add_argument("--only", choices=[PLAIN, OURS, UNCOMPILED], help="two steps of one way, for its peak memory")
    args = parser.parse_args()
    setup = read_options(args)
    machine = Machine(setup.machine)
    if args.only:
        found = memory_of(args.only, setup, machine)
        figures = {"peak_bytes": found.peak, "added_bytes": found.added}
        write_figures(args.json, setup, hardware(machine), figures)
        print(f"{args.only}: {found.peak / 1e6:.0f} MB at most, {found.added / 1e6:.0f} MB of them for the step")
        return
    names = [PLAIN, OURS, *([UNCOMPILED] if machine.compute.compiled else [])]
    chosen = ["model", "size", "batch", "device", "precision", "compile", "threads"]
    options = [f"--{name}={getattr(args, name)}" for name in chosen if getattr(args, name) is not None]
    print(f"{setup.name}, batch {setup.batch}, {hardware(machine)}, torch {torch.__version__}\n", flush=True)
    memory = {name: memory_alone(name, options) for name in names}
    speeds, product = interleaved(ways(setup, machine, names), setup, machine, args.steps, args.rounds)
    report(setup, machine, speeds, product, memory, args.peak * 1e12)
    steps = {n: {**vars(speeds[n]), "peak_bytes": memory[n].peak, "added_bytes": memory[n].added} for n in names}
    whole = {"flops_per_image": setup.flops, "layer_flops_per_image": setup.layer_flops, "matmul_flops": product}
    found_all = {"images_per_second": speeds[OURS].per_second, "steps": steps, **whole}
    write_figures(args.json, setup, hardware(machine), found_all)


if __name__ == "__main__":
    stage_main("mae_step", main)
