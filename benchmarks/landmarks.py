"""Compare landmarks on real photos, without ground truth: detectors with and without a border, one as the reference.

A second measure needs no reference: a mirrored photo must give the mirrored landmarks (--mirror).

Example:
    python -m benchmarks.landmarks PHOTOS.zip --weights data/weights/detectors/retinaface-mobilenet.safetensors
    python -m benchmarks.landmarks PHOTOS.zip --weights FILE --borders edge --mtcnn own retinaface
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps

from benchmarks.photos import from_path
from ssfer.core.errors import SsferError
from ssfer.core.process import stage_main
from ssfer.faces import border
from ssfer.faces.alignment import TEMPLATE, estimate_similarity
from ssfer.faces.detectors.base import Detection, Detector
from ssfer.faces.detectors.mtcnn import MtcnnDetector
from ssfer.faces.detectors.registry import build_detector
from ssfer.faces.detectors.retinaface import RetinaFaceDetector
from ssfer.faces.landmark_check import landmark_flag
from ssfer.faces.settings import Border

Points = np.ndarray | None  # (5, 2) of a photo's best face
SWAPPED = [1, 0, 2, 4, 3]  # left and right change places in a mirror
MIN_SCORE = 0.5
BATCH = 64


@dataclass
class Column:
    """Results of one detector with one border on all photos."""

    points: list[Points] = field(default_factory=list)
    mirrored: list[Points] = field(default_factory=list)  # of the mirrored photos, mapped back
    flags: int = 0
    seconds: float = 0.0  # of one thread

    def add(self, detector: Detector, photos: Sequence[Image.Image], where: Border, mirror: bool) -> None:
        """Add the detections in more photos."""
        start = time.process_time()
        found = border.detect(detector, photos, where, MIN_SCORE)
        self.seconds += time.process_time() - start
        self.points += [_best(one) for one in found]
        self.flags += sum(_flagged(one) for one in found)
        if mirror:
            others = border.detect(detector, [ImageOps.mirror(photo) for photo in photos], where, MIN_SCORE)
            for photo, points in zip(photos, map(_best, others), strict=True):
                self.mirrored.append(None if points is None else _mirror(points, photo.width))


def _best(found: Detection) -> Points:
    return found.landmarks[0] if len(found) else None


def _flagged(found: Detection) -> bool:
    try:
        return len(found) > 0 and landmark_flag(found.boxes[0], found.landmarks[0]) is not None
    except ValueError:  # degenerate points, which stage align also refuses
        return False


def _mirror(points: np.ndarray, width: int) -> np.ndarray:
    return (points * [-1, 1] + [width - 1, 0])[SWAPPED]


def compare(points: Sequence[Points], reference: Sequence[Points]) -> np.ndarray:
    """Return (n, 2) of the photos in which both have a face: mean distance of the five points as a share of the
    reference's eye distance, and the scale of the aligned crop over the reference's (NaN: the points are no face).
    """
    rows = []
    for mine, other in zip(points, reference, strict=True):
        if mine is not None and other is not None:
            distance = np.linalg.norm(mine - other, axis=1).mean() / np.linalg.norm(other[1] - other[0])
            rows.append((distance, _scale(mine) / _scale(other)))
    return np.array(rows).reshape(-1, 2)


def mean_offsets(points: Sequence[Points], reference: Sequence[Points]) -> np.ndarray:
    """Return (5, 2): how far the points are from the reference's, in the crop that the reference's points align."""
    pairs = [(p, r) for p, r in zip(points, reference, strict=True) if p is not None and r is not None]
    return np.mean([(p - r) @ estimate_similarity(r, TEMPLATE)[:, :2].T for p, r in pairs], axis=0)


def _scale(points: np.ndarray) -> float:
    try:
        return float(np.sqrt(np.linalg.det(estimate_similarity(points, TEMPLATE)[:, :2])))
    except ValueError:
        return float("nan")


def figures(compared: np.ndarray) -> list[str]:
    """Return table cells in percent: median distance, share above 25 % of the eye distance, scales in 0.9–1.1."""
    if not len(compared):
        return ["–"] * 3
    distance, scale = compared.T
    right = (scale > 0.9) & (scale < 1.1)
    return [f"{100 * v:.1f}" for v in (np.median(distance), (distance > 0.25).mean(), right.mean())]


def table(columns: dict[tuple[str, Border], Column], reference: tuple[str, Border]) -> Iterator[str]:
    """Yield a Markdown table."""
    head = ["detector", "border", "photos", "face found"]
    head += [
        f"{against}: {name}" for against in ("reference", "mirror") for name in ("median %", ">25 %", "scale ok %")
    ]
    yield f"| {' | '.join([*head, 'flagged %', 'ms a photo'])} |"
    yield "|---" * (len(head) + 2) + "|"
    for (name, where), column in columns.items():
        known = len(column.points)
        found = sum(points is not None for points in column.points)
        against = ["", "", ""]
        if (name, where) != reference:
            against = figures(compare(column.points, columns[reference].points))
        mirror = figures(compare(column.mirrored, column.points)) if column.mirrored else ["", "", ""]
        last = [f"{100 * column.flags / known:.2f}", f"{1000 * column.seconds / known:.1f}"]
        yield f"| {' | '.join([name, where, str(known), str(found), *against, *mirror, *last])} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder or zip of photos with one face each")
    parser.add_argument("--images", type=int, help="number of photos, evenly spaced (default: all)")
    parser.add_argument("--borders", nargs="+", choices=get_args(Border), default=list(get_args(Border)))
    parser.add_argument(
        "--mtcnn", nargs="+", choices=["own", "retinaface"], default=["own"], help="its points (default own)"
    )
    parser.add_argument("--weights", type=Path, help="RetinaFace weights; without them only MTCNN is measured")
    parser.add_argument("--max-side", type=int, default=256, help="side for RetinaFace (default 256)")
    parser.add_argument(
        "--reference", help="DETECTOR:BORDER (default: the last row, which is RetinaFace's if it is there)"
    )
    parser.add_argument("--mirror", action="store_true", help="also compare with the mirrored photos: twice the time")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    built = [build_detector("mtcnn", MtcnnDetector.Settings(points=points), args.device) for points in args.mtcnn]
    if args.weights:
        settings = RetinaFaceDetector.Settings(weights=str(args.weights), max_side=args.max_side)
        built.append(build_detector("retinaface", settings, args.device))
    detectors = {one.name: one for one in built}
    columns: dict[tuple[str, Border], Column] = {
        (name, where): Column() for name in detectors for where in args.borders
    }
    reference = list(columns)[-1]
    if args.reference:
        known = {":".join(key): key for key in columns}
        if args.reference not in known:
            raise SsferError(f"--reference {args.reference} is not measured; expected one of {', '.join(known)}")
        reference = known[args.reference]
    stream = from_path(args.photos, args.images)
    while photos := list(islice(stream, BATCH)):
        for (name, where), column in columns.items():
            column.add(detectors[name], photos, where, args.mirror)
    print(f"reference: {' with border '.join(reference)}; % of the eye distance; scale ok: 0.9 to 1.1 times its\n")
    print("\n".join(table(columns, reference)))
    for name, where in columns.keys() - {reference}:
        offsets = mean_offsets(columns[name, where].points, columns[reference].points)
        print(f"{name} with border {where}, from the reference, px of a 224 px crop: {offsets.round(2).tolist()}")


if __name__ == "__main__":
    stage_main("landmarks", main)
