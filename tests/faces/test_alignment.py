"""Similarity alignment: known transforms are recovered, pixels land where the matrix says."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ssfer.core.images import fallback_box
from ssfer.faces import alignment as align


def similarity(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def least_squares(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Brute force: solve the 2n equations for (a, b, tx, ty) of [[a, -b, tx], [b, a, ty]]."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, tx], [b, a, ty]])


def test_template_is_the_specification_s() -> None:
    np.testing.assert_allclose(align.template(224)[0], (76.589, 103.393))
    np.testing.assert_allclose(align.template(112)[4], (70.730, 92.204))
    assert fallback_box(224) == (25, 25, 220, 220)
    np.testing.assert_allclose(fallback_box(64), np.array([25, 25, 220, 220]) * 64 / 224)


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.7, 0.31), (-2.9, 4.0), (np.pi, 0.02)])
def test_known_similarity_is_recovered(angle: float, scale: float) -> None:
    matrix = similarity(angle, scale, (13.0, -70.5))
    found = align.estimate_similarity(align.TEMPLATE, align.transform_points(align.TEMPLATE, matrix))
    np.testing.assert_allclose(found, matrix, atol=1e-6)


def test_noisy_points_get_the_least_squares_fit() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        source = (align.template(112) + rng.normal(0, 6, (5, 2))) * rng.uniform(0.5, 3) + rng.uniform(-100, 400, 2)
        found = align.estimate_similarity(source, align.template(64))
        np.testing.assert_allclose(found, least_squares(source, align.template(64)), atol=1e-8)


def test_matrix_never_reflects() -> None:
    found = align.estimate_similarity(align.TEMPLATE + np.random.default_rng(0).normal(0, 20, (5, 2)), align.TEMPLATE)
    np.testing.assert_allclose(found[0, 0], found[1, 1])
    np.testing.assert_allclose(found[0, 1], -found[1, 0])
    assert np.linalg.det(found[:, :2]) > 0


def test_inputs_are_left_alone() -> None:
    source, before = align.template(100), align.template(100)
    align.estimate_similarity(source, align.TEMPLATE)
    np.testing.assert_array_equal(source, before)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.full((5, 2), 7.0), "coincide"),
        (np.full((5, 2), np.nan), "not finite"),
        (align.TEMPLATE[::-1] * np.array([1.0, np.inf]), "not finite"),
        (align.TEMPLATE * np.array([-1.0, 1.0]), "resemble"),  # a mirrored face
        (np.zeros((5, 3)), r"\(n, 2\)"),
        (np.zeros((1, 2)), r"\(n, 2\)|n >= 2"),
    ],
)
def test_degenerate_landmarks_are_refused(points: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align.estimate_similarity(points, align.TEMPLATE[: len(points)])


def test_inverse_and_points_and_boxes() -> None:
    matrix = similarity(0.4, 1.7, (5.0, -3.0))
    points = np.array([[0.0, 0.0], [10.0, 4.0]])
    np.testing.assert_allclose(
        align.transform_points(align.transform_points(points, matrix), align.invert(matrix)), points
    )
    quarter = similarity(np.pi / 2, 1.0, (0.0, 0.0))  # (x, y) -> (-y, x)
    np.testing.assert_allclose(align.transform_box(np.array([1, 2, 5, 4]), quarter), [-4, 1, -2, 5], atol=1e-12)
    assert align.transform_points(np.zeros((0, 2)), matrix).shape == (0, 2)


def dot_picture(points: np.ndarray, width: int, height: int, radius: float) -> Image.Image:
    """Black picture with a white Gaussian dot at each point."""
    y, x = np.mgrid[:height, :width]
    value = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * radius**2)) for px, py in points)
    return Image.fromarray(np.repeat(np.clip(255 * value, 0, 255).astype(np.uint8)[..., None], 3, axis=2))


def centroid(image: Image.Image, point: np.ndarray, reach: int) -> np.ndarray:
    grey = np.asarray(image.convert("L"), dtype=float)
    y, x = np.mgrid[: grey.shape[0], : grey.shape[1]]
    weight = grey * ((x - point[0]) ** 2 + (y - point[1]) ** 2 < reach**2)
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize(("angle", "scale"), [(0.3, 0.9), (-0.5, 3.0), (0.2, 9.0), (0.0, 17.5)])
def test_landmarks_land_on_the_template(angle: float, scale: float) -> None:
    """`scale` > 2 goes through block averaging, whose half-pixel shift must be undone exactly."""
    size = 64
    there = similarity(angle, scale, (30 * scale, 25 * scale))
    landmarks = align.transform_points(align.template(size), there)
    extent = int(130 * scale)
    photo = dot_picture(landmarks, extent, extent, radius=1.5 * scale)
    crop = align.warp(photo, align.estimate_similarity(landmarks, align.template(size)), size)
    assert crop.size == (size, size)
    for point in align.template(size):
        np.testing.assert_allclose(centroid(crop, point, 6), point, atol=0.12)


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[:, ::2] = 255  # one-pixel stripes: any sampling without averaging gives black, white or moire
    crop = np.asarray(align.warp(Image.fromarray(stripes), np.array([[0.1, 0, 0], [0, 0.1, 0]]), 64)).astype(int)
    np.testing.assert_allclose(crop[4:-4, 4:-4], 127.5, atol=3)


def test_outside_is_black_and_identity_is_identity() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    np.testing.assert_array_equal(np.asarray(align.warp(image, similarity(0, 1, (0, 0)), 64)), np.asarray(image))
    shifted = np.asarray(align.warp(image, similarity(0, 1, (10.0, 0)), 64))
    np.testing.assert_array_equal(shifted[:, 10:], np.asarray(image)[:, :-10])
    assert not shifted[:, :10].any()


@pytest.mark.parametrize("scale", [1, 0.4])  # at 0.4 the image is averaged over blocks first
def test_outside_mirrors_the_photo_or_blurs_it(scale: float) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((160, 160))
    matrix = similarity(0, scale, (20.0, 0))
    crops = {name: np.asarray(align.warp(image, matrix, 64, name)).astype(int) for name in ("black", "reflect", "blur")}
    inside = slice(2, 60), slice(24, 60)
    for name in ("reflect", "blur"):
        np.testing.assert_allclose(crops[name][inside], crops["black"][inside], atol=2)
    # Mirrored at the edge: the column next to it on the one side as on the other.
    np.testing.assert_allclose(crops["reflect"][:60, 10], crops["reflect"][:60, 30], atol=12)
    spread = {name: crop[:60, :16].std(axis=0).mean() for name, crop in crops.items()}
    assert spread["black"] == 0 < spread["blur"] < 0.8 * spread["reflect"]


def test_resize_matrix_describes_the_resize() -> None:
    points = np.array([[30.0, 20.0], [90.0, 100.0]])
    photo = dot_picture(points, 120, 160, radius=4.0)
    matrix = align.resize_matrix(120, 160, 64)
    crop = align.resize(photo, 64)
    for before, after in zip(points, align.transform_points(points, matrix), strict=True):
        np.testing.assert_allclose(centroid(crop, after, 8), after, atol=0.1)
        np.testing.assert_allclose(align.transform_points(after[None], align.invert(matrix))[0], before)
