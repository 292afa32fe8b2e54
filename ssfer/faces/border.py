"""Detection with a border around the photo, for faces that the photo's edge cuts off; the same rule for all detectors.

Detectors are trained on faces with background around them. If forehead, ears or chin are cut off, MTCNN's landmarks
are off by 14 % of the eye distance (median) with a score of 0.999, and by 6 % with a border
(docs/results/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from ssfer.faces.alignment import iou
from ssfer.faces.detectors.base import Detection, Detector
from ssfer.faces.settings import Border

# Width of the border as a share of the photo's shorter side. Widths of 0.2 to 0.5, and repeated edge pixels instead of
# gray, give equal accuracy.
_WIDTH = 0.3
_GRAY = (128, 128, 128)
# A box meets the edge if it is within this share of its longer side, without the border and with it. A face whose box
# with the border ends further inside is not cut off by the edge: its first box was too large. It stays as first found.
_NEAR, _NEAR_WITH_BORDER = 0.02, 0.04
_MIN_IOU = 0.3  # of a face found without and with the border
# With the border only faces from this share of the first one's side are looked for: a smaller one has a lower IoU.
_SMALLER = 0.5


def detect(detector: Detector, images: Sequence[Image.Image], border: Border, min_score: float) -> list[Detection]:
    """Return the faces of each RGB image with at least `min_score`, best first; boxes are clipped to the image.

    With "edge" a photo gets a border only if a box meets its edge. Only the faces at the edge are replaced, by those
    found at the same position with the border; other faces of the photo stay.
    """
    if border == "always":
        return _with_border(detector, images, min_score, [0.0] * len(images))
    found = [one.above(min_score) for one in detector.detect_checked(images)]
    if border == "edge":
        cut_off = [one.boxes[meets_edge(one.boxes, image.size)] for one, image in zip(found, images, strict=True)]
        again = [i for i, boxes in enumerate(cut_off) if len(boxes)]
        sides = [_SMALLER * float((b[:, 2:] - b[:, :2]).max(axis=1).min()) for b in cut_off if len(b)]
        for i, second in zip(again, _with_border(detector, [images[i] for i in again], min_score, sides), strict=True):
            found[i] = _merged(found[i], second, images[i].size)
    return found


def meets_edge(boxes: np.ndarray, size: tuple[int, int], near: float = _NEAR) -> np.ndarray:
    """Return (n,) bool: which of (n, 4) boxes touch, or nearly touch, the edge of the (width, height) photo."""
    gap = np.minimum(boxes[:, :2], np.array(size) - boxes[:, 2:]).min(axis=1)
    meets: np.ndarray = gap <= near * (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    return meets


def _with_border(
    detector: Detector, images: Sequence[Image.Image], min_score: float, sides: Sequence[float]
) -> list[Detection]:
    widths = [round(_WIDTH * min(image.size)) for image in images]
    shown = [ImageOps.expand(image, width, _GRAY) for image, width in zip(images, widths, strict=True)]
    found = zip(detector.detect_checked(shown, sides), widths, images, strict=True)
    return [_in_photo(one.above(min_score), width, image.size) for one, width, image in found]


def _in_photo(found: Detection, width: int, size: tuple[int, int]) -> Detection:
    """Map faces from the bordered picture to the photo; faces entirely inside the border are dropped."""
    boxes = np.clip(found.boxes - width, 0, np.tile(size, 2)).astype(np.float32)
    moved = Detection(boxes, found.landmarks - np.float32(width), found.scores, np.ones(len(found), bool))
    return moved.at((boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1))


def _merged(first: Detection, second: Detection, size: tuple[int, int]) -> Detection:
    """Return `first` with its faces at the edge replaced by the same faces of `second`."""
    faces = [first.at(np.array([i])) for i in range(len(first))]
    free = meets_edge(second.boxes, size, _NEAR_WITH_BORDER)
    for i in np.flatnonzero(meets_edge(first.boxes, size)):
        overlaps = np.where(free, iou(second.boxes, first.boxes[i]), 0.0)
        if len(second) and overlaps.max() >= _MIN_IOU:
            best = int(overlaps.argmax())
            faces[i] = second.at(np.array([best]))
            free[best] = False
    parts = zip(*((f.boxes, f.landmarks, f.scores, f.bordered) for f in faces), strict=True)
    together = Detection(*map(np.concatenate, parts))
    return together.at(np.argsort(-together.scores, kind="stable"))
