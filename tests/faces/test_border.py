"""Detection with a border: which photos get one, what it replaces, and where the result lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from ssfer.faces import border
from ssfer.faces.detectors.base import Detection
from tests.support.rendered_photos import BrightDetector, bright_photo

INNER, EDGE = (40, 20, 65, 55), (0, 30, 25, 65)


class Recorder(BrightDetector):
    """Says with a lower score what it finds in a picture wider than 100 px, which is one with a border."""

    def __init__(self) -> None:
        self.widths: list[int] = []
        self.sides: list[float] = []

    def detect_large(self, images: Sequence[Image.Image], sides: Sequence[float]) -> list[Detection]:
        self.sides += sides
        return self.detect(images)

    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        self.widths += [image.width for image in images]
        return [self._seen(image, found) for image, found in zip(images, super().detect(images), strict=True)]

    def _seen(self, image: Image.Image, found: Detection) -> Detection:
        if image.width == 100:
            return found
        return Detection(found.boxes, found.landmarks + 1, found.scores - np.float32(0.01))


def test_only_a_photo_whose_box_meets_the_edge_gets_a_border() -> None:
    detector = Recorder()
    photos = [bright_photo(INNER), bright_photo(EDGE)]
    inner, edge = border.detect(detector, photos, "edge", 0.5)
    assert detector.widths == [100, 100, 148]  # 30 % of the 80 px on either side
    assert inner.bordered.tolist() == [False]
    assert edge.bordered.tolist() == [True]
    np.testing.assert_array_equal(edge.boxes, [EDGE])
    plain = BrightDetector().detect(photos)[1]
    np.testing.assert_allclose(edge.landmarks, plain.landmarks + 1)  # of the second look, in the photo's pixels


def test_in_a_scene_only_the_face_at_the_edge_is_replaced() -> None:
    photo, detector = bright_photo(INNER, EDGE), Recorder()
    found, plain = border.detect(detector, [photo], "edge", 0.5)[0], BrightDetector().detect([photo])[0]
    assert detector.sides == [17.5]  # half the longer side of the face at the edge
    which = [box.tolist() == list(EDGE) for box in found.boxes]
    assert sorted(which) == [False, True]
    assert found.bordered.tolist() == which
    assert (np.diff(found.scores) <= 0).all()
    shift = {tuple(b): p for b, p in zip(plain.boxes.tolist(), plain.landmarks, strict=True)}
    for box, points, again in zip(found.boxes.tolist(), found.landmarks, found.bordered, strict=True):
        np.testing.assert_allclose(points - shift[tuple(box)], float(again), atol=1e-5)


def test_a_face_that_ends_inside_the_photo_stays_as_first_found() -> None:
    """Its first box reached the edge, the one with the border does not: nothing is cut off."""

    class Overshooting(BrightDetector):
        def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
            return [
                self._wider(f) if i.width == 100 else f for i, f in zip(images, super().detect(images), strict=True)
            ]

        def _wider(self, found: Detection) -> Detection:
            return Detection(found.boxes * np.array([0, 1, 1, 1], np.float32), found.landmarks, found.scores)

    for left, again in ((4, False), (1, True)):  # 10 % and 2.5 % of the box's 40 px
        found = border.detect(Overshooting(), [bright_photo((left, 20, 40, 60))], "edge", 0.5)[0]
        assert found.bordered.tolist() == [again]
        assert found.boxes[0, 0] == (left if again else 0)


def test_a_face_missed_with_the_border_stays() -> None:
    class Blind(BrightDetector):
        def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
            return [Detection() if i.width > 100 else f for i, f in zip(images, super().detect(images), strict=True)]

    found = border.detect(Blind(), [bright_photo(EDGE), bright_photo()], "edge", 0.5)
    assert [len(one) for one in found] == [1, 0]
    assert found[0].bordered.tolist() == [False]


@pytest.mark.parametrize(("setting", "widths"), [("never", [100]), ("always", [148])])
def test_never_and_always(setting: str, widths: list[int]) -> None:
    detector = Recorder()
    found = border.detect(detector, [bright_photo(EDGE)], setting, 0.5)[0]
    assert detector.widths == widths
    assert found.bordered.tolist() == [setting == "always"]
    np.testing.assert_array_equal(found.boxes, [EDGE])


def test_low_scores_are_no_faces_with_and_without_a_border() -> None:
    photos = [bright_photo(INNER, EDGE)]  # both score 0.5 + 0.5 * 25 * 35 / 8000
    assert [len(border.detect(BrightDetector(), photos, s, 0.6)[0]) for s in ("never", "edge", "always")] == [0] * 3


def test_what_lies_in_the_border_alone_is_no_face() -> None:
    class Outside(BrightDetector):
        def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
            one = Detection(
                np.array([[0, 0, 20, 20]], np.float32), np.zeros((1, 5, 2), np.float32), np.ones(1, np.float32)
            )
            return [one for _ in images]

    assert len(border.detect(Outside(), [bright_photo(INNER)], "always", 0.5)[0]) == 0


def test_near_the_edge_is_a_share_of_the_box() -> None:
    boxes = np.array([[2, 30, 52, 80], [0.9, 30, 50.9, 80], [30, 30, 80, 80], [49.1, 30, 99.1, 80]], np.float32)
    assert border.meets_edge(boxes, (100, 100)).tolist() == [False, True, False, True]
