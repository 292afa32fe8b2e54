"""Check whether five landmarks can be those of the face in the box; detectors are also confident of wrong ones."""

from __future__ import annotations

import numpy as np

from ssfer.faces.alignment import TEMPLATE, TEMPLATE_SIZE, estimate_similarity, iou, transform_points
from ssfer.faces.detectors.base import Detection

# Largest distance of a point outside the box, as a share of the box's longer side.
_OUTSIDE = 0.05
# The box's longer side divided by the side of the crop that the landmarks define. 682 rendered faces: 0.86 to 1.09; 111
# press photos with a border for which two detectors agree: 0.72 to 1.04; MTCNN without a border, if its points are off
# by over 25 % of the eye distance: 0.71 (median).
_SCALES = (0.7, 1.3)
# Mean distance of two detectors' points, as a share of the eye distance.
_DISAGREEMENT = 0.25


def landmark_flag(box: np.ndarray, landmarks: np.ndarray, other: Detection | None = None) -> str | None:
    """Return what is wrong with a face's landmarks, the first of `ssfer.formats.manifest.FLAGS` that applies, or None.

    Args:
        box: (4,).
        landmarks: (5, 2), which fit the template: `estimate_similarity` raises for others.
        other: faces that a second detector found in the same image; None: there is no second detector. If it found no
            face or only other faces, nothing is flagged.
    """
    side = (box[2:] - box[:2]).max()
    matrix = estimate_similarity(landmarks, TEMPLATE)
    on_crop = transform_points(landmarks, matrix)
    left_eye, right_eye, _, left_mouth, right_mouth = on_crop
    if not (left_eye[0] < right_eye[0] and left_mouth[0] < right_mouth[0]):
        return "left_right"
    if max(left_eye[1], right_eye[1]) >= min(left_mouth[1], right_mouth[1]):
        return "eyes_below_mouth"
    if max((box[:2] - landmarks).max(), (landmarks - box[2:]).max()) > _OUTSIDE * side:
        return "outside_box"
    scale = side * np.sqrt(np.linalg.det(matrix[:, :2])) / TEMPLATE_SIZE
    if not _SCALES[0] <= scale <= _SCALES[1]:
        return "scale"
    if other is not None and _distance(box, landmarks, other) > _DISAGREEMENT:
        return "detectors_disagree"
    return None


def _distance(box: np.ndarray, landmarks: np.ndarray, other: Detection) -> float:
    overlaps = iou(other.boxes, box)
    if not len(other) or overlaps.max() < 0.3:
        return 0.0
    points = other.landmarks[overlaps.argmax()]
    return float(np.linalg.norm(points - landmarks, axis=1).mean() / np.linalg.norm(points[1] - points[0]))
