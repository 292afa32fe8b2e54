"""Choice of a photo's face if it has several: by a policy, or by the data set's own box."""

from __future__ import annotations

from typing import Any

import numpy as np

from ssfer.faces import alignment as align
from ssfer.faces.detectors.base import Detection

_MIN_ANNOTATED_IOU = 0.3


def first_by(policy: str, found: Detection, size: tuple[int, int]) -> Detection:
    """Return the faces with the chosen one first: by score, area, or nearness to the middle of the (width, height)."""
    boxes = found.boxes.astype(np.float64)
    if policy == "largest":
        rank = -(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    elif policy == "central":
        rank = np.hypot(*((boxes[:, :2] + boxes[:, 2:]) / 2 - np.array(size) / 2).T)
    else:
        rank = -found.scores
    return found.at(np.argsort(rank, kind="stable"))


def on_annotated(found: Detection, box: tuple[float, float, float, float]) -> Detection:
    """Return the faces with the annotated one (largest IoU with `box`) first, or none if all IoUs are below 0.3.

    The threshold is low because boxes of data sets and detectors include different amounts of forehead and chin, and
    because boxes of neighboring faces hardly overlap.
    """
    overlap = align.iou(found.boxes.astype(np.float64), np.array(box, dtype=np.float64))
    if not len(found) or overlap.max() < _MIN_ANNOTATED_IOU:
        return Detection()
    return found.at(np.argsort(-overlap, kind="stable"))


def describe(row: dict[str, Any], found: Detection, choice: str = "only") -> None:
    """Write the faces found in the input image into its manifest row; the first face is the chosen one, by `choice`."""
    some = len(found) > 0
    row.update(
        status="no_face" if not some else "ok" if len(found) == 1 else "several_faces",
        face_found=some,
        num_faces=len(found),
        face_choice=choice if some else None,
        box=found.boxes[0].tolist() if some else None,
        landmarks=found.landmarks[0].ravel().tolist() if some else None,
        score=float(found.scores[0]) if some else None,
    )
