"""The built-in detector on rendered photos whose truth is known, and on input that no detector likes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.photos import rendered_in
from ssfer.core.errors import SsferError
from ssfer.faces import border
from ssfer.faces.alignment import TEMPLATE
from ssfer.faces.detectors import mtcnn
from ssfer.faces.detectors.base import Detection
from ssfer.faces.detectors.mtcnn import MtcnnDetector
from ssfer.faces.detectors.registry import build_detector
from ssfer.testing.detectors import check_detector
from tests.support.rendered_photos import render_once


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Image.Image, dict]]:
    """Rendered photos that can be read, with their truth."""
    return list(rendered_in(render_once(tmp_path_factory)))


@pytest.fixture(scope="module")
def detector() -> MtcnnDetector:
    return MtcnnDetector(MtcnnDetector.Settings())


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    inner = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(inner / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner))


def check_face(found: Detection, truth: dict, scale: float = 1.0) -> None:
    """One face, in the right place, with its five points in the right order."""
    assert len(found) == 1
    assert overlap(found.boxes[0], np.array(truth["box"]) * scale) > 0.5
    points = np.array(truth["landmarks"]).reshape(5, 2) * scale
    error = np.linalg.norm(found.landmarks[0] - points, axis=1) / np.linalg.norm(points[1] - points[0])
    assert error.mean() < 0.2
    assert found.scores[0] > 0.8


def test_every_rendered_face_is_found_where_it_is(photos: list, detector: MtcnnDetector) -> None:
    single = [(image, truth) for image, truth in photos if truth["trouble"] is None]
    assert len(single) == 17
    for found, (_, truth) in zip(detector.detect([image for image, _ in single]), single, strict=True):
        check_face(found, truth)


def test_small_faces_are_not_looked_for_where_only_large_ones_are_wanted(photos: list, detector: MtcnnDetector) -> None:
    """The large ones are the same as among all."""
    face = next(image for image, truth in photos if truth["trouble"] is None)
    scene = Image.new("RGB", (640, 500), (128, 128, 128))
    scene.paste(face.resize((500, 500), Image.Resampling.BICUBIC), (0, 0))
    scene.paste(face.resize((120, 120), Image.Resampling.BICUBIC), (510, 200))
    (both,) = detector.detect([scene])
    sides = (both.boxes[:, 2:] - both.boxes[:, :2]).max(axis=1)
    assert len(both) == 2 and 3 < sides.max() / sides.min() < 6
    (large,) = detector.detect_large([scene], [0.75 * sides.max()])
    expected = both.at(np.array([sides.argmax()]))
    for field in ("boxes", "landmarks", "scores"):
        np.testing.assert_allclose(getattr(large, field), getattr(expected, field), atol=1e-3)


def test_landmarks_of_a_mirrored_photo_are_mirrored(photos: list, detector: MtcnnDetector) -> None:
    """x of a point and x of its mirror image add up to the width - 1: no half pixels are lost on the way."""
    single = [image for image, truth in photos if truth["trouble"] is None]
    mirrored = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in single]
    swap = [1, 0, 2, 4, 3]  # left and right change places
    pairs = zip(detector.detect(single), detector.detect(mirrored), strict=True)
    sums = np.stack([a.landmarks[0, :, 0] + b.landmarks[0, swap, 0] for a, b in pairs])
    assert sums.mean() == pytest.approx(single[0].width - 1, abs=0.35)


def test_two_heads_and_none(photos: list, detector: MtcnnDetector) -> None:
    for trouble, count in (("two_heads", 2), ("no_head", 0)):
        images = [image for image, truth in photos if truth["trouble"] == trouble]
        assert len(images) == 4
        assert [len(d) for d in detector.detect(images)] == [count] * 4


def test_coordinates_are_mapped_back_from_other_sizes(photos: list, detector: MtcnnDetector) -> None:
    image, truth = next(p for p in photos if p[1]["trouble"] is None)
    for factor in (0.5, 3, 12):  # enlarged for detection or not, as is, shrunk for detection
        size = (round(image.width * factor), round(image.height * factor))
        found = detector.detect([image.resize(size, Image.Resampling.BICUBIC)])[0]
        check_face(found, truth, factor)


def test_tight_crops_need_the_border(photos: list, detector: MtcnnDetector) -> None:
    """48 px crops that cut chin and forehead, as FER2013's: the second pass finds what the first does not."""
    crops, points = [], []
    for image, truth in photos:
        if truth["trouble"] is None:
            x1, y1, x2, y2 = truth["box"]
            dx, dy = 0.15 * (x2 - x1), 0.15 * (y2 - y1)
            box = (x1 + dx, y1 + dy, x2 - dx, y2 - dy)
            crops.append(image.resize((48, 48), Image.Resampling.BICUBIC, box=box))
            scale = 48 / np.array([box[2] - box[0], box[3] - box[1]])
            points.append((np.reshape(truth["landmarks"], (5, 2)) - box[:2]) * scale)
    assert sum(len(d) > 0 for d in detector._run([(crop, 0.0) for crop in crops], mtcnn._PASSES[0])) < 13
    found = detector.detect(crops)
    assert sum(len(d) > 0 for d in found) > 15
    errors = [  # mapped back from behind the border and from the enlarged view
        np.linalg.norm(detection.landmarks[0] - truth, axis=1).mean() / np.linalg.norm(truth[1] - truth[0])
        for detection, truth in zip(found, points, strict=True)
        if len(detection)
    ]
    assert np.median(errors) < 0.25


@pytest.mark.parametrize("side", ["left", "top"])
def test_landmarks_of_a_head_cut_off_by_the_edge_need_the_border(
    photos: list, detector: MtcnnDetector, side: str
) -> None:
    """Photos that end 12 % inside the face's box, at one side only."""
    crops, points = [], []
    for image, truth in (photo for photo in photos if photo[1]["trouble"] is None):
        x1, y1, x2, y2 = truth["box"]
        cut = round(x1 + 0.12 * (x2 - x1)) if side == "left" else round(y1 + 0.12 * (y2 - y1))
        corner = (cut, 0) if side == "left" else (0, cut)
        crops.append(image.crop((*corner, *image.size)))
        points.append(np.reshape(truth["landmarks"], (5, 2)) - corner)
    medians = {}
    for setting in ("never", "edge"):
        found = border.detect(detector, crops, setting, 0.5)
        medians[setting] = np.median(
            [
                np.linalg.norm(f.landmarks[0] - p, axis=1).mean() / np.linalg.norm(p[1] - p[0])
                for f, p in zip(found, points, strict=True)
            ]
        )
    assert medians["edge"] < 0.1 < 0.15 < medians["never"]


def test_contract(photos: list, detector: MtcnnDetector) -> None:
    images = [image for image, _ in photos[:6]]
    images[2] = images[2].resize((130, 100))
    check_detector(detector, images)


def test_strange_pictures_have_no_face_and_raise_nothing(detector: MtcnnDetector) -> None:
    rng = np.random.default_rng(0)
    images = [
        Image.new("RGB", size, (90, 120, 30)) for size in ((1, 1), (16, 16), (16, 900), (900, 16), (3000, 20), (97, 61))
    ]
    images += [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(8)]
    found = detector.detect(images)
    assert [len(d.above(0.6)) for d in found] == [0] * len(images)


def test_the_smallest_face_is_a_setting(photos: list) -> None:
    """A face of 60 px in a photo of 1000 x 750."""
    face, truth = next((image, truth) for image, truth in photos if truth["trouble"] is None)
    scene = Image.new("RGB", (1000, 750), (90, 100, 110))
    scene.paste(face.resize((80, 80), Image.Resampling.BICUBIC), (700, 500))
    small, plain = build_detector("mtcnn", min_face=0.05), build_detector("mtcnn")
    assert (small.name, plain.name) == ("mtcnn-min0.05", "mtcnn")
    assert len(plain.detect([scene])[0].above(0.9)) == 0
    (box,) = small.detect([scene])[0].above(0.9).boxes
    assert overlap(box, np.array([700, 500, 700, 500]) + np.array(truth["box"]) * 80 / face.width) > 0.5


def test_a_detector_without_a_smallest_face_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MtcnnDetector, "has_min_face", False)
    with pytest.raises(SsferError, match=r"detector mtcnn has no smallest face to set; leave align\.min_face at null"):
        build_detector("mtcnn", min_face=0.05)


def test_unknown_detector_lists_the_known() -> None:
    with pytest.raises(
        SsferError, match=r"unknown detector 'mtcn'; did you mean 'mtcnn'\? \(known: mtcnn, retinaface\)"
    ):
        build_detector("mtcn")


def test_above_keeps_order() -> None:
    found = Detection(np.arange(12).reshape(3, 4), np.zeros((3, 5, 2)), np.array([0.9, 0.5, 0.3]))
    np.testing.assert_array_equal(found.above(0.5).boxes, [[0, 1, 2, 3], [4, 5, 6, 7]])


def test_points_move_to_where_retinaface_sets_them(
    photos: list[tuple[Image.Image, dict]], detector: MtcnnDetector
) -> None:
    """Points off the template as MTCNN's are, in any position and size, land on the template; others stay."""
    turned = np.array([[0.3, 0.4], [-0.4, 0.3]])
    points = (TEMPLATE + mtcnn._FROM_RETINAFACE) @ turned + [5, 7]
    mirrored = TEMPLATE * [-1, 1]
    found = Detection(
        np.zeros((2, 4), np.float32), np.stack([points, mirrored]).astype(np.float32), np.ones(2, np.float32)
    )
    moved = mtcnn._moved(found)
    np.testing.assert_allclose(moved.landmarks[0], TEMPLATE @ turned + [5, 7], atol=1e-3)
    np.testing.assert_array_equal(moved.landmarks[1], found.landmarks[1])
    np.testing.assert_allclose(found.landmarks[0], points, rtol=1e-6)

    other = MtcnnDetector(MtcnnDetector.Settings(points="retinaface"))
    assert other.name != detector.name, "the name is part of the crop recipe"
    for ours, its in zip(other.detect([photos[0][0]]), detector.detect([photos[0][0]]), strict=True):
        np.testing.assert_array_equal(ours.boxes, its.boxes)
        moved = np.abs(ours.landmarks - mtcnn._moved(its).landmarks).max()
        assert 0 < moved < 1, "by how the mirrored face's points differ"
        assert np.abs(ours.landmarks - its.landmarks).max() > moved
