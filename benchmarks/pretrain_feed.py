"""Images a second of MAE pretraining end to end: from JPEGs in tar shards on disk to weights that have changed.

    python -m benchmarks.pretrain_feed --model tiny --batch 64 --workers 0 1
    python -m benchmarks.pretrain_feed --device cuda --batch 512 --workers 8 14 --steps 40 --json feed.json
    python -m benchmarks.pretrain_feed --photos photos.zip --model tiny

Writes shards with a manifest into a temporary folder, as `align` stores crops, and runs what stage `pretrain` runs:
FaceDataset, StepBatches, DataLoader, ssfer.train.loop.fit. `training from memory` is the same training on one batch that
lies ready in memory (page-locked on CUDA), so that nothing is read, decoded or augmented: what feeding could reach at
best. `loader alone` makes batches and trains nothing. Ways take turns, round by round; figures are medians. Files were
just written, so the system has them in memory; on a machine with less memory than data, disks count as well.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.loader import made_up, write_shards
from benchmarks.mae_setup import (
    LR,
    PEAK_TFLOPS,
    Setup,
    add_options,
    build_ours,
    hardware,
    print_table,
    read_options,
    write_figures,
)
from benchmarks.photos import from_path
from ssfer.core.errors import SsferError
from ssfer.core.images import encode_jpeg
from ssfer.core.process import stage_main
from ssfer.data.batches import StepBatches, Stream
from ssfer.data.dataset import FaceDataset
from ssfer.data.transforms import Weak
from ssfer.train.checkpoints import Checkpoints
from ssfer.train.device import Machine
from ssfer.train.loop import Schedule, fit


class FromMemory(StepBatches):
    """Every batch is the first one, made once."""

    def __init__(self, streams: list[Stream], epochs: int, pinned: bool) -> None:
        super().__init__(streams, epochs)
        first = super().__getitem__(0)
        self._first = {k: v.pin_memory() if pinned else v for k, v in first.items()}

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return self._first


class Unsaved(Checkpoints):
    """Snapshots that are not written: they are no part of feeding."""

    def save(self, step: int, state: Any, keep: int = 0) -> Path:
        """Do nothing."""
        return self.folder


class Clock:
    """A constant learning rate that notes when it is asked for, which is once a step, with the batch at hand.

    On CUDA a step is asked for while the device is at work on the one before, never earlier: so over many steps these
    times are the device's.
    """

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, epoch: float) -> float:
        """Return the learning rate."""
        self.times.append(time.perf_counter())
        return LR

    def rate(self, batch: int, warm_up: int) -> float:
        """Return images a second after the first `warm_up` steps."""
        return (len(self.times) - 1 - warm_up) * batch / (self.times[-1] - self.times[warm_up])


def write_corpus(folder: Path, photos: Path | None, count: int, side: int) -> float:
    """Write `count` JPEGs of quality 95 as a shard, return their mean size in kB."""
    found = from_path(photos, count) if photos else made_up(count, side)
    pictures = [found[i % len(found)].resize((side, side), Image.Resampling.BICUBIC) for i in range(count)]
    files = [encode_jpeg(picture, 95) for picture in pictures]
    write_shards(files, side, folder)
    return sum(map(len, files)) / count / 1000


def training(setup: Setup, machine: Machine, batches: StepBatches, warm_up: int) -> float:
    """Train to the end of `batches` with the engine; return images a second after the first `warm_up` steps."""
    method, optimizer = build_ours(setup)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        fit(
            method,
            optimizer,
            batches,
            Schedule(clock),
            machine=machine,
            model=setup.model,
            seed=0,
            checkpoints=Unsaved(Path(folder)),
            label="feed",
        )
    del method, optimizer
    gc.collect()
    return clock.rate(setup.batch, warm_up)


def loading(batches: StepBatches, machine: Machine, warm_up: int) -> float:
    """Make all batches as the engine's loader does; return images a second after the first `warm_up`."""
    pinned = machine.device.type == "cuda"
    sampler = range(len(batches))
    clock = Clock()
    for _ in DataLoader(batches, None, sampler=sampler, num_workers=machine.num_workers, pin_memory=pinned):
        clock(0)
    return clock.rate(batches.streams[0].batch_size, warm_up)


def ways(setup: Setup, corpus: Path, workers: list[int], steps: int, warm_up: int) -> dict[str, Callable[[], float]]:
    """Return what is measured: functions that return images a second."""
    dataset = FaceDataset([corpus])
    weak = Weak(setup.model.img_size, setup.pretrain.min_scale)
    stream = Stream("ulb", dataset, setup.batch, {"w": weak}, seed=0)
    epochs = -(-(steps + warm_up + 1) // stream.steps_per_epoch)

    def machine(count: int) -> Machine:
        return Machine(setup.machine.model_copy(update={"num_workers": count}))

    def from_memory() -> float:
        here = machine(0)
        return training(setup, here, FromMemory([stream], epochs, here.device.type == "cuda"), warm_up)

    def from_shards(count: int) -> float:
        return training(setup, machine(count), StepBatches([stream], epochs), warm_up)

    def alone(count: int) -> float:
        return loading(StepBatches([stream], epochs), machine(count), warm_up)

    found: dict[str, Callable[[], float]] = {"training from memory": from_memory}
    for n in workers:
        found[f"training from shards, {n} workers"] = lambda n=n: from_shards(n)  # type: ignore[misc]
        found[f"loader alone, {n} workers"] = lambda n=n: alone(n)  # type: ignore[misc]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, batch=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[0], help="loader processes (default 0)")
    parser.add_argument("--photos", type=Path, help="folder or zip of photos to use instead of made-up pictures")
    parser.add_argument("--images", type=int, default=1024, help="different files (default 1024)")
    parser.add_argument("--side", type=int, default=224, help="of the stored crops (default 224)")
    parser.add_argument("--steps", type=int, default=8, help="timed, at least (default 8)")
    parser.add_argument("--warm-up", type=int, default=4, help="steps before the clock starts (default 4)")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    setup = read_options(args)
    if args.images < setup.batch:
        raise SsferError(f"expected at least --batch {setup.batch} images, got --images {args.images}")
    with tempfile.TemporaryDirectory() as folder:
        size = write_corpus(Path(folder), args.photos, args.images, args.side)
        machine = Machine(setup.machine)
        device, on_cuda = hardware(machine), machine.device.type == "cuda"
        print(f"{args.images} JPEGs of {args.side} px, {size:.1f} kB; {setup.name}, batch {setup.batch}; {device}\n")
        measured = ways(setup, Path(folder), args.workers, args.steps, args.warm_up)
        turns = [{name: way() for name, way in measured.items()} for _ in range(args.rounds)]
    speeds = {name: float(np.median([turn[name] for turn in turns])) for name in measured}
    best = speeds["training from memory"]
    rows = [[name, f"{v:.1f}", f"{v / best:.2f}" if "training" in name else ""] for name, v in speeds.items()]
    print_table(["what", "images/s", "x from memory"], rows)
    fed = max(v for name, v in speeds.items() if "shards" in name)
    reached = setup.layer_flops * fed
    print(
        f"\nWithout attention's own products an image costs {setup.layer_flops / 1e9:.1f} GFLOP, so the best row from "
        f"shards computes {reached / 1e12:.3f} TFLOP/s"
        + (f", {reached / PEAK_TFLOPS / 1e10:.1f}% of {PEAK_TFLOPS:.0f}." if on_cuda else ".")
    )
    write_figures(args.json, setup, device, {"images_per_second": fed, "ways": speeds, "kilobytes_per_image": size})


if __name__ == "__main__":
    stage_main("pretrain_feed", main)
