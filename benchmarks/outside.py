"""Measure whether the fill outside the photo (align.outside) disturbs the detector's second pass, on crops.

Example:
    python -m benchmarks.outside PHOTOS.zip --images 500
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.photos import from_path
from ssfer.core.process import stage_main
from ssfer.faces import alignment as align
from ssfer.faces import border
from ssfer.faces.detectors.base import Detection, Detector
from ssfer.faces.detectors.registry import build_detector
from ssfer.faces.detectors.retinaface import RetinaFaceDetector
from ssfer.faces.settings import Outside

MIN_SCORE, BOX_MIN_SCORE = 0.5, 0.4  # of section align
BATCH = 64


@dataclass(frozen=True)
class Face:
    """One photo's face, aligned."""

    crops: dict[Outside, Image.Image]
    landmarks: np.ndarray  # (5, 2) of the photo, in pixels of the crop
    outside: float  # share of the crop's pixels that lie outside the photo


def face_of(photo: Image.Image, found: Detection, size: int) -> Face:
    """Return the face in a photo in which one was found."""
    matrix = align.estimate_similarity(found.landmarks[0], align.template(size))
    white = np.asarray(align.warp(Image.new("RGB", photo.size, (255, 255, 255)), matrix, size))
    crops = {mode: align.warp(photo, matrix, size, mode) for mode in get_args(Outside)}
    return Face(crops, align.transform_points(found.landmarks[0], matrix), float((white < 128).mean()))


def second_pass(detector: Detector, faces: Sequence[Face], mode: Outside) -> tuple[Counter[str], list[float]]:
    """Return counts of crops with no, one or several faces, and landmark distances where there is one.

    The distances are from the photo's landmarks, as a share of the eye distance.
    """
    counts: Counter[str] = Counter()
    distances = []
    for face, one in zip(faces, detector.detect([face.crops[mode] for face in faces]), strict=True):
        one = one.above(BOX_MIN_SCORE)
        counts["none" if not len(one) else "one" if len(one) == 1 else "several"] += 1
        if len(one) == 1:
            eyes = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
            distances.append(float(np.linalg.norm(one.landmarks[0] - face.landmarks, axis=1).mean() / eyes))
    return counts, distances


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder or zip of photos with one face each")
    parser.add_argument("--images", type=int, help="number of photos, evenly spaced (default: all)")
    parser.add_argument("--size", type=int, default=224, help="side of the crops in px (default 224)")
    parser.add_argument("--weights", type=Path, help="RetinaFace weights; without them MTCNN detects")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    detector = build_detector("mtcnn")
    if args.weights:
        detector = build_detector("retinaface", RetinaFaceDetector.Settings(weights=str(args.weights)))
    shares: list[float] = []
    modes = get_args(Outside)
    counts: dict[str, Counter[str]] = {mode: Counter() for mode in modes}
    distances: dict[str, list[float]] = {mode: [] for mode in modes}
    stream = from_path(args.photos, args.images)
    while photos := list(islice(stream, BATCH)):
        found = border.detect(detector, photos, "edge", MIN_SCORE)
        faces = [face_of(p, f, args.size) for p, f in zip(photos, found, strict=True) if len(f)]
        shares += [face.outside for face in faces]
        for mode in modes:
            some = second_pass(detector, faces, mode)
            counts[mode] += some[0]
            distances[mode] += some[1]
    some_outside = np.array(shares) > 0
    print(
        f"{detector.name}, {len(shares)} crops of {args.size} px, {some_outside.mean():.1%} of them reach out of the "
        f"photo, {np.mean(shares):.1%} of all pixels\n"
    )
    print("| outside | one face % | none % | several % | landmarks off, median % | >25 % |\n|---|---|---|---|---|---|")
    for mode, count in counts.items():
        off = np.array(distances[mode])
        cells = [100 * count[name] / len(shares) for name in ("one", "none", "several")]
        cells += [100 * float(np.median(off)), 100 * float((off > 0.25).mean())]
        print(f"| {mode} | {' | '.join(f'{v:.1f}' for v in cells)} |")


if __name__ == "__main__":
    stage_main("outside", main)
