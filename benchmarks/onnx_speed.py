"""Speed of the network alone on a CPU: torch eager, ONNX float32 and ONNX int8, in milliseconds per batch.

    python -m benchmarks.onnx_speed data/weights/model.safetensors --threads 2
    python -m benchmarks.onnx_speed resnet18@112 vit_small_patch16_224@112

A network is a weights file, or a timm name with an input size, untrained. Inputs are uint8 crops, so normalization is
measured, too. The three run in turns; results are the fastest rounds, because other work can only slow one down. With
one thread they are CPU time, which other work changes least.
Convolutional networks are calibrated with noise, because the speed does not depend on it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from ssfer.core.process import stage_main
from ssfer.export import onnx_int8, onnx_model
from ssfer.export.network import Exportable, Run, load_exportable, torch_run
from ssfer.models import classifier
from ssfer.models.backbone import build_backbone
from ssfer.models.settings import ModelSettings

CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
BATCHES = (1, 32)


def network(name: str) -> Exportable:
    """Return the classifier in a file, or an untrained one of timm's, as name@size."""
    backbone, at, size = name.partition("@")
    if not at:
        return load_exportable(Path(name))
    settings = ModelSettings(backbone=backbone, img_size=int(size))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.safetensors"
        net = build_backbone(settings, len(CLASSES))
        classifier.save(path, net, settings, CLASSES, data_fingerprint="none", recipe="none")
        return load_exportable(path)


def runs_of(exportable: Exportable, threads: int) -> dict[str, Run]:
    """Return name -> function that computes probabilities."""
    model, _ = onnx_model.onnx_model(exportable)
    noise = np.random.default_rng(0).integers(0, 256, (64, exportable.size, exportable.size, 3), dtype=np.uint8)
    small = onnx_int8.quantize(model, onnx_int8.way_of(exportable.module.network), noise)
    return {
        "torch eager": torch_run(exportable.module),
        "ONNX float32": onnx_model.onnx_run(model, threads),
        "ONNX int8": onnx_model.onnx_run(small, threads),
    }


def fastest(
    runs: Mapping[str, Run], size: int, batch: int, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return name -> milliseconds per batch in the fastest round, by a clock in seconds."""
    crops = np.random.default_rng(1).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 2):
        for name, run in runs.items():
            start = clock()
            run(crops)
            if number >= 2:  # the first two warm up
                times[name].append(1000 * (clock() - start))
    return {name: min(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NETWORK")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock, what = (time.process_time, "CPU time") if options.threads == 1 else (time.perf_counter, "time")
    print(f"{options.threads} threads, {options.rounds} rounds; ms of {what} a batch (times as fast as torch eager)")
    print("| network | batch | torch eager | ONNX float32 | ONNX int8 |\n|---|---:|---:|---:|---:|")
    for name in options.networks:
        exportable = network(name)
        runs = runs_of(exportable, options.threads)
        for batch in BATCHES:
            found = fastest(runs, exportable.size, batch, options.rounds, clock)
            eager, *others = found.values()
            cells = [f"{eager:.2f}", *(f"{value:.2f} ({eager / value:.2f}x)" for value in others)]
            print(f"| {Path(name).stem} | {batch} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    stage_main("benchmarks.onnx_speed", main)
