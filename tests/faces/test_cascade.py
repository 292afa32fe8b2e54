"""MTCNN's cascade against facenet-pytorch's own, and its means against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN

from benchmarks.photos import rendered_in
from ssfer.faces.detectors.cascade import Cascade, _area_means, _integral_images
from tests.support.rendered_photos import render_once

THRESHOLDS = (0.6, 0.7, 0.3)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """Rendered photos, uint8 (96, 96, 3)."""
    photos = rendered_in(render_once(tmp_path_factory))
    return [np.asarray(photo) for photo, truth in photos if truth["trouble"] is None]


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return Cascade()


def check_equal_to_the_library(cascade: Cascade, pictures: list[np.ndarray], smallest: float) -> int:
    """Compare all faces of a batch, their order included; return how many there are."""
    library = MTCNN(keep_all=True, select_largest=False, thresholds=list(THRESHOLDS), min_face_size=smallest)
    count = 0
    expected = zip(*library.detect(np.stack(pictures), landmarks=True), strict=True)
    for found, (boxes, scores, points) in zip(cascade.find(pictures, smallest, THRESHOLDS), expected, strict=True):
        if boxes is None:
            assert len(found.scores) == 0
            continue
        count += len(boxes)
        np.testing.assert_allclose(found.boxes, np.asarray(boxes, float), atol=1e-3)
        np.testing.assert_allclose(found.scores, np.asarray(scores, float), atol=1e-5)
        np.testing.assert_allclose(found.landmarks, np.asarray(points, float), atol=1e-3)
    return count


def test_a_batch_equals_the_library(cascade: Cascade, pictures: list[np.ndarray]) -> None:
    assert check_equal_to_the_library(cascade, pictures, 20.0) >= len(pictures)


def test_faces_across_the_edge_equal_the_library(cascade: Cascade, pictures: list[np.ndarray]) -> None:
    """Wide pictures in which heads lie beside each other and are cut off."""
    wide = [np.hstack([a[20:84, 30:], b[20:84]]) for a, b in zip(pictures[:6], pictures[6:12], strict=True)]
    assert check_equal_to_the_library(cascade, wide, 20.0) > len(wide)


def test_means_with_the_mirrored_face_depend_less_on_the_side(cascade: Cascade, pictures: list[np.ndarray]) -> None:
    """Landmarks of a mirrored picture, mirrored back, are nearer to the picture's own."""
    swapped, width = [1, 0, 2, 4, 3], pictures[0].shape[1]
    turned = [np.ascontiguousarray(picture[:, ::-1]) for picture in pictures]

    def difference(by: Cascade) -> float:
        both = (by.find(some, 20.0, THRESHOLDS) for some in (pictures, turned))
        pairs = [(a.landmarks[0], b.landmarks[0]) for a, b in zip(*both, strict=True) if len(a.boxes) and len(b.boxes)]
        assert len(pairs) > len(pictures) / 2
        return float(np.mean([np.abs(a - (b * [-1, 1] + [width + 1, 0])[swapped]).mean() for a, b in pairs]))

    assert difference(Cascade(mirrored=True)) < 0.95 * difference(cascade)


@pytest.mark.parametrize("size", [(12, 12), (7, 19), (48, 48)])
def test_means_are_those_of_torch(size: tuple[int, int]) -> None:
    """Boxes larger and smaller than the result, one of a single pixel, and the whole picture."""
    rng = np.random.default_rng(3)
    pictures = rng.integers(0, 256, (2, 61, 87, 3), dtype=np.uint8)
    sums = _integral_images(list(pictures))
    boxes = torch.tensor([[0, 0, 87, 61], [5, 7, 50, 40], [80, 50, 86, 61], [3, 4, 4, 5]])
    picture = torch.tensor([0, 1, 1, 0])
    means = _area_means(sums, picture, boxes, size)
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        pixels = torch.from_numpy(pictures[picture[i], y1:y2, x1:x2].copy()).permute(2, 0, 1).float()
        expected = torch.nn.functional.interpolate(pixels[None], size=size, mode="area")[0]
        torch.testing.assert_close(means[i], expected, rtol=0, atol=0)


def test_sums_beyond_int32_have_right_means() -> None:
    """A white picture whose sum of pixels is 2.3e9."""
    white = np.full((3000, 3000, 3), 255, np.uint8)
    means = _area_means(_integral_images([white]), torch.tensor([0]), torch.tensor([[2900, 2900, 3000, 3000]]), (4, 4))
    assert (means == 255).all()
