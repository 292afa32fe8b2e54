"""How well detectors find rendered faces with known boxes, and how exactly alignment undoes a known similarity.

Example:
    python -m benchmarks.detection_accuracy --weights data/weights/detectors/retinaface-mobilenet.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.photos import rendered
from ssfer.core.process import stage_main
from ssfer.faces import alignment as align
from ssfer.faces.detectors.base import Detection, Detector
from ssfer.faces.detectors.registry import DETECTORS, build_detector

Photo = tuple[Image.Image, dict[str, Any]]
POSES = ((0, 5), (5, 10), (10, 30))  # degrees between the face's direction and the camera
CROP = 112  # px


@dataclass(frozen=True)
class Face:
    """A detector's result for one rendered face."""

    angle: float  # out of the image plane, in degrees
    overlap: float  # IoU of the best box
    pixels: float  # mean distance of the five points; NaN when the face was not found
    share: float  # the same as a share of the eye distance


def measure(detector: Detector, photos: Sequence[Photo], min_score: float) -> tuple[list[Face], int]:
    """Return one Face per photo with a known face, and the number of false positives."""
    faces, wrong = [], 0
    for found, (_, truth) in zip(detector.detect([image for image, _ in photos]), photos, strict=True):
        found = found.above(min_score)
        if truth["box"] is None:
            wrong += len(found)
            continue
        face, matched = _face(found, truth)
        faces.append(face)
        # Of two heads only one box is known; one more box may be the other head's.
        wrong += max(0, len(found) - matched - (truth["heads"] - 1))
    return faces, wrong


def _face(found: Detection, truth: dict[str, Any]) -> tuple[Face, int]:
    angle = float(np.hypot(truth["yaw"], truth["pitch"]))
    overlaps = align.iou(found.boxes, np.array(truth["box"]))
    best = int(np.argmax(overlaps)) if len(overlaps) else -1
    if best < 0 or overlaps[best] < 0.5:
        return Face(angle, float(overlaps.max(initial=0.0)), np.nan, np.nan), 0
    points = np.array(truth["landmarks"])
    error = float(np.linalg.norm(found.landmarks[best] - points, axis=1).mean())
    return Face(angle, float(overlaps[best]), error, error / float(np.linalg.norm(points[1] - points[0]))), 1


def rows(name: str, faces: Sequence[Face], wrong: int) -> list[str]:
    """Return table rows: all faces, then by pose."""
    table = []
    for low, high in ((0, 90), *POSES):
        part = [f for f in faces if low <= f.angle < high]
        if not part:
            continue
        ious, pixels, shares = (np.array([getattr(f, key) for f in part]) for key in ("overlap", "pixels", "share"))
        hit = ~np.isnan(pixels)
        error = [np.nan] * 3
        if hit.any():
            error = [pixels[hit].mean(), 100 * shares[hit].mean(), 100 * np.median(shares[hit])]
        all_poses = high == 90
        pose = "all" if all_poses else f"{low} to {high}°"
        figures = [f"{v:.3f}" for v in (hit.mean(), ious.mean(), np.median(ious))]
        figures += [f"{error[0]:.2f}", f"{error[1]:.1f}", f"{error[2]:.1f}", str(wrong) if all_poses else ""]
        table.append(f"| {' | '.join([name, pose, str(len(part)), *figures])} |")
    return table


def undo_similarities(photos: Sequence[Photo], rng: np.random.Generator) -> tuple[float, float]:
    """Transform photos by random similarities, align both versions by their true points, and compare the crops.

    Returns:
        The largest and the mean displacement between the two crops, in pixels of a CROP px crop; for each face the
        largest of its five landmarks counts.
    """
    distances = []
    for image, truth in photos:
        points = np.array(truth["landmarks"])
        angle, scale, size = rng.uniform(-np.pi, np.pi), rng.uniform(0.8, 1.5), 5 * image.width // 2
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shift = rng.uniform(-5, 5, 2) + (size - 1) / 2 - turn @ np.full(2, (image.width - 1) / 2)
        known = np.hstack([turn, shift[:, None]])
        moved = Image.fromarray(cv2.warpAffine(np.asarray(image), known, (size, size), flags=cv2.INTER_CUBIC))
        first, second = (
            np.asarray(align.warp(i, align.estimate_similarity(p, align.template(CROP)), CROP).convert("L"))
            for i, p in ((image, points), (moved, align.transform_points(points, known)))
        )
        distances.append(float(displacement(first, second, align.template(CROP)).max()))
    return max(distances), float(np.mean(distances))


def displacement(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the displacement (n,) of points (n, 2), in pixels, by the similarity that maps one crop onto another.

    One least-squares step of Lucas and Kanade, which is exact to first order, so for much less than a pixel. Measured
    on the face only, without the corners, which may be outside the photo.
    """
    one, two = (np.array(cv2.GaussianBlur(crop.astype(np.float64), (0, 0), 1.5)) for crop in (first, second))
    difference: np.ndarray = one - two
    down, right = map(np.asarray, np.gradient((one + two) / 2))
    y, x = np.mgrid[CROP // 5 : CROP - CROP // 10, CROP // 6 : CROP - CROP // 6]
    gx, gy = right[y, x].ravel(), down[y, x].ravel()
    x, y = x.ravel(), y.ravel()
    # A point moves by (a x - b y + c, b x + a y + d).
    equations = np.stack([gx * x + gy * y, gy * x - gx * y, gx, gy], axis=1)
    a, b, c, d = np.linalg.lstsq(equations, difference[y, x], rcond=None)[0]
    return np.hypot(a * points[:, 0] - b * points[:, 1] + c, b * points[:, 0] + a * points[:, 1] + d)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300, help="rendered photos (default 300)")
    parser.add_argument("--size", type=int, default=96, help="their side in px (default 96)")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--min-score", type=float, default=0.5, help="least score of a face (default 0.5)")
    parser.add_argument("--weights", type=Path, help="RetinaFace weights; without them only MTCNN is measured")
    parser.add_argument("--max-side", type=int, nargs="*", default=[256], help="side for RetinaFace (default 256)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    photos = rendered(args.images, args.size, args.seed, args.threads)
    detectors = {"mtcnn": build_detector("mtcnn", device=args.device)}
    for side in args.max_side if args.weights else ():
        settings = DETECTORS["retinaface"].Settings(weights=args.weights and str(args.weights), max_side=side)
        one = build_detector("retinaface", settings, args.device)
        detectors[f"{one.name} at {side} px"] = one
    print(f"{len(photos)} rendered photos of {args.size} px, seed {args.seed}, score at least {args.min_score}\n")
    print(
        "| detector | pose | faces | recall | IoU mean | median | points px | % eye distance | median | wrong boxes |"
    )
    print("|---" * 10 + "|")
    for name, detector in detectors.items():
        print("\n".join(rows(name, *measure(detector, photos, args.min_score))))
    # Photos of 96 px have too little detail for a precision of a hundredth of a pixel.
    sharp = [photo for photo in rendered(25, 224, args.seed, args.threads) if photo[1]["trouble"] is None]
    largest, mean = undo_similarities(sharp * 4, np.random.default_rng(args.seed))
    print(
        f"\nalignment undoes {4 * len(sharp)} known similarities of 224 px photos: points are off by at most "
        f"{largest:.3f} px, {mean:.3f} px on average, of a {CROP} px crop"
    )


if __name__ == "__main__":
    stage_main("detection_accuracy", main)
