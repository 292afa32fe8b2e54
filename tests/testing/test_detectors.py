"""ssfer.testing.detectors: every broken rule is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from ssfer.faces.detectors.base import Detection
from ssfer.testing.detectors import check_detector
from tests.support.rendered_photos import BrightDetector, bright_photo

PHOTOS = [bright_photo((20, 30, 60, 70), size=(96, 96)), bright_photo((10, 10, 40, 50), size=(80, 64))]


class Changed(BrightDetector):
    """BrightDetector with every result changed."""

    def __init__(self, change: Callable[[Detection, int], Detection]) -> None:
        super().__init__()
        self.change = change

    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        return [self.change(found, len(images)) for found in super().detect(images)]


def test_a_detector_that_keeps_the_contract_passes() -> None:
    check_detector(BrightDetector(), PHOTOS)


def test_a_detector_that_misses_large_faces_is_named() -> None:
    class Blind(BrightDetector):
        def detect_large(self, images: Sequence[Image.Image], sides: Sequence[float]) -> list[Detection]:
            return [one.at(np.zeros(len(one), bool)) for one in self.detect(images)]

    with pytest.raises(AssertionError, match="photo 0: detect_large misses a face"):
        check_detector(Blind(), PHOTOS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d, n: Detection(d.boxes, d.landmarks.reshape(-1, 10), d.scores),
            r"landmarks of float32 \(0, 10\), expected float32 \(0, 5, 2\)",
        ),
        (
            lambda d, n: Detection(d.boxes.astype(float), d.landmarks, d.scores),
            "boxes of float64",
        ),
        (lambda d, n: Detection(d.boxes * np.float32(np.nan), d.landmarks, d.scores), "boxes that are not finite"),
        (lambda d, n: Detection(d.boxes, d.landmarks, d.scores + np.float32(1)), "a score of [12].*, expected 0 to 1"),
        (
            lambda d, n: Detection(d.boxes[:, [2, 3, 0, 1]], d.landmarks, d.scores),
            "boxes are x1, y1, x2, y2",
        ),
        (lambda d, n: Detection(d.boxes / np.float32(100), d.landmarks, d.scores), "a face inside of one pixel"),
        (lambda d, n: (d.boxes, d.landmarks, d.scores), "a tuple, expected a Detection"),
        (lambda d, n: None, "a NoneType, expected a Detection"),
        (lambda d, n: Detection(d.boxes.tolist(), d.landmarks, d.scores), "boxes as a list, expected a float32 array"),
        (lambda d, n: Detection(d.boxes + np.float32(500), d.landmarks, d.scores), "boxes lie inside the photo"),
        (lambda d, n: Detection(d.boxes, d.landmarks + np.float32(n), d.scores), "depends on the other photos"),
        (lambda d, n: Detection(), "expected a face in some photo"),
    ],
)
def test_a_broken_rule_is_named(change: Callable[[Detection, int], Detection], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_detector(Changed(change), PHOTOS)
