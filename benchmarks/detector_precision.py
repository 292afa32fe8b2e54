"""Face detectors in float32, which stages use, and in TF32: how far landmarks move, and how much faster TF32 is.

    python -m benchmarks.detector_precision --device cuda
    python -m benchmarks.detector_precision --photos PHOTOS.zip --weights FILE --device cuda

Without --photos faces are rendered. Both ways detect on the same photos, in turns; seconds are medians over the rounds,
and distances those of the best face's five points, in pixels of the photo and in % of the eye distance. A CPU has no
TF32: there nothing moves.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from benchmarks.mae_setup import print_table
from benchmarks.photos import from_path, rendered, rendered_in
from ssfer.core.device import tf32
from ssfer.core.process import stage_main
from ssfer.faces.detectors import mtcnn, retinaface
from ssfer.faces.detectors.base import Detection, Detector
from ssfer.faces.detectors.registry import build_detector
from ssfer.faces.detectors.retinaface import RetinaFaceDetector
from ssfer.train.speed import finish

MIN_SCORE = 0.5
BATCH = 64
HEAD = [
    "detector",
    "photos/s, float32",
    "TF32",
    "x",
    "faces in one only",
    "moved, px: median",
    "most",
    "%: median",
    "most",
]


@contextmanager
def in_tf32() -> Iterator[None]:
    """Let detectors compute in TF32 where the device has it."""
    with (
        tf32(allowed=True),
        patch.object(mtcnn, "exact_float32", nullcontext),
        patch.object(retinaface, "exact_float32", nullcontext),
    ):
        yield


WAYS: dict[str, Any] = {"float32": nullcontext, "TF32": in_tf32}


def detect(detector: Detector, photos: Sequence[Image.Image], device: str) -> tuple[list[Detection], float]:
    """Return the faces of every photo, in batches of BATCH, and the seconds."""
    started, found = time.perf_counter(), []
    for first in range(0, len(photos), BATCH):
        found += [one.above(MIN_SCORE) for one in detector.detect(photos[first : first + BATCH])]
    finish(torch.device(device))
    return found, time.perf_counter() - started


def moved(exact: Sequence[Detection], other: Sequence[Detection]) -> tuple[np.ndarray, int]:
    """Return the distances of photos in which both have a face (n, 2), in pixels and in % of the eye distance, and the
    number of photos in which only one has.
    """
    rows, one_only = [], 0
    for a, b in zip(exact, other, strict=True):
        one_only += bool(len(a)) != bool(len(b))
        if len(a) and len(b):
            pixels = float(np.linalg.norm(a.landmarks[0] - b.landmarks[0], axis=1).mean())
            rows.append((pixels, 100 * pixels / float(np.linalg.norm(a.landmarks[0][1] - a.landmarks[0][0]))))
    return np.array(rows).reshape(-1, 2), one_only


def row(detector: Detector, photos: Sequence[Image.Image], device: str, rounds: int) -> list[str]:
    """Return a line of the table."""
    detect(detector, photos[:BATCH], device)  # the first photos choose algorithms
    found: dict[str, list[Detection]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(rounds):
        for name in list(WAYS) if turn % 2 == 0 else list(WAYS)[::-1]:
            with WAYS[name]():
                found[name], took = detect(detector, photos, device)
            seconds[name].append(took)
    distances, one_only = moved(found["float32"], found["TF32"])
    speeds = [len(photos) / float(np.median(seconds[name])) for name in WAYS]
    cells = (
        [f"{v:.2g}" for column in distances.T for v in (np.median(column), column.max())]
        if len(distances)
        else ["–"] * 4
    )
    return [detector.name, *(f"{v:.1f}" for v in speeds), f"{speeds[1] / speeds[0]:.2f}", str(one_only), *cells]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder or zip of photos")
    parser.add_argument(
        "--raw", type=Path, help="rendered photos: data/raw/synthetic of a project (default: render some)"
    )
    parser.add_argument("--images", type=int, default=256, help="photos, repeated if there are fewer (default 256)")
    parser.add_argument("--side", type=int, help="resize them to this side in pixels")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="RetinaFace weights; without: MTCNN only")
    parser.add_argument("--max-side", type=int, default=256, help="side for RetinaFace (default 256)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.photos:
        photos = list(from_path(args.photos, args.images))
    else:
        made = rendered_in(args.raw) if args.raw else rendered(args.images, 96, seed=11)
        photos = [photo for photo, _ in islice(made, args.images)]
    if args.side:
        photos = [photo.resize((args.side, args.side), Image.Resampling.BICUBIC) for photo in photos]
    photos = list(islice(cycle(photos), args.images))
    detectors = [build_detector("mtcnn", device=args.device)]
    for file in args.weights:
        settings = RetinaFaceDetector.Settings(weights=str(file), max_side=args.max_side)
        detectors.append(build_detector("retinaface", settings, args.device))
    print(f"{len(photos)} photos, {args.device}, torch {torch.__version__}\n")
    print_table(HEAD, [])
    for detector in detectors:
        print("| " + " | ".join(row(detector, photos, args.device, args.rounds)) + " |", flush=True)


if __name__ == "__main__":
    stage_main("detector_precision", main)
