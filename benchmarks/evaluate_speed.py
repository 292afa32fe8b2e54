"""Images per second of testing a classifier, as stage `evaluate` does, and of its parts.

    python -m benchmarks.evaluate_speed --device cuda --batch 256 --images 4096

Rows: the crops alone, read and decoded by --workers processes and moved to the device; the network alone, on a batch
that is there; both together, in every machine.eval_precision that the device has. `differ` is the largest difference of
the probabilities from float32's. All take turns; results are medians.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loader import made_up, write_shards
from benchmarks.mae_setup import add_options, hardware, print_table, read_options, write_figures
from ssfer.core.errors import SsferError
from ssfer.core.images import encode_jpeg
from ssfer.core.process import stage_main
from ssfer.data.dataset import FaceDataset
from ssfer.evaluation.inference import eval_batches, predict
from ssfer.models.prediction import predictions
from ssfer.models.vit import build_classifier
from ssfer.train.compute import NAMES, computes_bf16
from ssfer.train.device import Machine
from ssfer.train.speed import finish

CLASSES, QUALITY = 7, 95
DIFFERENT = 256  # images; more are repeated


def write_crops(folder: Path, count: int, side: int) -> FaceDataset:
    """Write so many crops as `align` does."""
    files = [encode_jpeg(picture, QUALITY) for picture in made_up(min(count, DIFFERENT), side)]
    write_shards([files[i % len(files)] for i in range(count)], side, folder)
    return FaceDataset([folder])


def measure(ways: dict[str, Callable[[], object]], machine: Machine, images: int, rounds: int) -> dict[str, float]:
    """Return the images per second of every way; medians over the rounds, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + rounds):
        for name, way in ways.items():
            finish(machine.device)
            started = time.perf_counter()
            way()
            finish(machine.device)
            seconds[name].append(time.perf_counter() - started)
    return {name: images / float(np.median(took[1:])) for name, took in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, batch=64)
    parser.add_argument("--images", type=int, default=512, help="crops (default 512)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--workers", type=int, help="processes that prepare batches (default: as machine.num_workers auto)"
    )
    args = parser.parse_args()
    if args.images < args.batch:
        raise SsferError(f"expected at least --batch {args.batch} images, found --images {args.images}")
    setup = read_options(args, eval_batch_size=args.batch, num_workers="auto" if args.workers is None else args.workers)
    machine, model = Machine(setup.machine), setup.model
    chosen = ["fp32", *["tf32"] * (machine.device.type == "cuda"), *["bf16"] * computes_bf16(machine.device)]
    machines = {p: Machine(setup.machine.model_copy(update={"eval_precision": p})) for p in chosen}
    torch.manual_seed(0)
    network = build_classifier(model, CLASSES).to(machine.device)
    with tempfile.TemporaryDirectory() as folder:
        crops = write_crops(Path(folder), args.images, model.img_size)
        batch = next(eval_batches(crops, machine=machine, model=model))
        probs: dict[str, Any] = {}

        def test(precision: str) -> None:
            probs[precision] = predict(network, crops, machine=machines[precision], model=model)

        def alone(precision: str) -> None:
            with machines[precision].compute.evaluating():
                predictions(network, [batch] * (args.images // args.batch))

        def read() -> None:
            for _ in eval_batches(crops, machine=machine, model=model):
                pass

        whole = measure({"read": read, **{p: partial(test, p) for p in chosen}}, machine, args.images, args.rounds)
        network_only = measure({p: partial(alone, p) for p in chosen}, machine, args.images, args.rounds)
    print(f"{setup.name}, {args.images} crops, batch {args.batch}, {machine.num_workers} workers, {hardware(machine)}")
    print(f"torch {torch.__version__}\n")
    print_table(["what", "images/s", "network alone, images/s", "differ"], list(rows(whole, network_only, probs)))
    write_figures(args.json, setup, hardware(machine), {"images_per_second": whole["fp32"], **whole})


def rows(whole: dict[str, float], network_only: dict[str, float], probs: dict[str, Any]) -> Sequence[list[str]]:
    """Return the lines of the table."""
    differ = {name: f"{np.abs(found - probs['fp32']).max():.1e}" for name, found in probs.items()}
    lines = [["crops alone", f"{whole['read']:.0f}", "", ""]]
    return lines + [[f"test in {NAMES[p]}", f"{whole[p]:.0f}", f"{v:.0f}", differ[p]] for p, v in network_only.items()]


if __name__ == "__main__":
    stage_main("evaluate_speed", main)
