"""Which landmarks are doubtful: each reason by hand, none for a good face at any angle and size."""

from __future__ import annotations

import numpy as np
import pytest

from ssfer.faces.alignment import TEMPLATE, estimate_similarity
from ssfer.faces.detectors.base import Detection
from ssfer.faces.landmark_check import landmark_flag

BOX = np.array([15.0, -20.0, 209.0, 215.0])  # about what detectors report on a crop


def moved(points: np.ndarray, angle: float, scale: float) -> np.ndarray:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T + (40, 70)


@pytest.mark.parametrize("angle", [0, 0.6, -1.5, 3.0])
@pytest.mark.parametrize("scale", [0.1, 4])
def test_a_face_is_fine_at_any_angle_and_size(angle: float, scale: float) -> None:
    corners = moved(np.array([[15, 15], [209, 15], [209, 209], [15, 209.0]]), angle, scale)
    middle, half = corners.mean(axis=0), 97 * scale
    box = np.concatenate([middle - half, middle + half])
    assert landmark_flag(box, moved(TEMPLATE, angle, scale)) is None


def points(**changes: tuple[float, float]) -> np.ndarray:
    names = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
    changed = TEMPLATE.copy()
    for name, place in changes.items():
        changed[names.index(name)] = place
    return changed


@pytest.mark.parametrize(
    ("flag", "landmarks", "box"),
    [
        ("left_right", points(left_mouth=(125, 185), right_mouth=(110, 185)), BOX),
        ("eyes_below_mouth", points(left_eye=(76, 180), right_eye=(147, 90), left_mouth=(83, 170)), BOX),
        ("outside_box", TEMPLATE, BOX + np.array([0, 0, -80, 0])),  # ends at x = 129, left of the right eye
        ("scale", TEMPLATE, np.array([70.0, 50.0, 150.0, 186.0])),  # 0.61 of the crop
        ("scale", TEMPLATE, np.array([-60.0, -60.0, 280.0, 280.0])),
    ],
)
def test_each_reason(flag: str, landmarks: np.ndarray, box: np.ndarray) -> None:
    estimate_similarity(landmarks, TEMPLATE)  # not refused before
    assert landmark_flag(box, landmarks) == flag


@pytest.mark.parametrize(("eye_distances", "flag"), [(0.2, None), (0.3, "detectors_disagree")])
def test_two_detectors_disagree_beyond_a_quarter_of_the_eye_distance(eye_distances: float, flag: str | None) -> None:
    shift = eye_distances * np.linalg.norm(TEMPLATE[1] - TEMPLATE[0])
    other = Detection(BOX[None] + 5, (TEMPLATE + np.array([shift, 0]))[None], np.ones(1))
    assert landmark_flag(BOX, TEMPLATE, other) == flag
    assert landmark_flag(BOX, TEMPLATE, Detection(BOX[None] + 500, TEMPLATE[None] + 500, np.ones(1))) is None
    assert landmark_flag(BOX, TEMPLATE, Detection()) is None
