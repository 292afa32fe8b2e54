"""Two crops of one picture agree after registration, two pictures do not, however alike they are roughly."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ssfer.copies import registration
from ssfer.copies.registration import registered, same_picture
from ssfer.copies.thumbnails import SIDE

EYE = np.eye(3)


def scene(seed: int, size: int = 96) -> np.ndarray:
    """A smooth random gray picture, (size, size) float32 0..255."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((12, 12)).astype(np.float32)
    return cv2.normalize(
        cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), None, 30, 230, cv2.NORM_MINMAX
    )


def cut(picture: np.ndarray, change: np.ndarray | float = 1.0, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """The middle third of a (96, 96) picture as a thumbnail, changed about its corner and shifted by (x, y) px."""
    matrix = np.hstack([change * np.eye(2) if np.isscalar(change) else change, [[32 + x], [32 + y]]]).astype(np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.clip(cv2.warpAffine(picture, matrix, (SIDE, SIDE), flags=flags), 0, 255).astype(np.uint8)


def test_registration_finds_a_slightly_different_cut_whatever_its_contrast() -> None:
    picture = scene(1)
    a, b = cut(picture), cut(picture, 1.05, -1.2, 0.7)
    assert min(registered(a, b, EYE)) > 0.97
    assert min(registered(a, (b * 0.6 + 20).astype(np.uint8), EYE)) > 0.97
    # The same from the right start.
    known = np.array([[1.05, 0, -1.2], [0, 1.05, 0.7], [0, 0, 1]])
    assert min(registered(a, b, known)) > 0.97


def test_rough_likeness_is_not_enough() -> None:
    """Same light and shape, other details: what two well aligned faces are to each other."""
    rough = cv2.normalize(cv2.GaussianBlur(scene(2), (0, 0), 10), None, 30, 230, cv2.NORM_MINMAX)
    grain = (np.random.default_rng(s).standard_normal((40, 40)).astype(np.float32) for s in (3, 4))
    a, b = (cut(rough + 12 * cv2.resize(g, (96, 96), interpolation=cv2.INTER_CUBIC)) for g in grain)
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.6
    assert min(registered(a, b, EYE)) < 0.5


@pytest.mark.parametrize(
    ("change", "plausible"),
    [
        (np.diag([1.08, 1.0]), True),
        (np.diag([1.3, 1.3]), True),
        (np.diag([1.12, 1.0]), False),
        (np.array([[1, 0.08], [0, 1]]), False),
        (np.array([[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]), False),
    ],
)
def test_turned_and_stretched_pictures_are_no_copies(change: np.ndarray, plausible: bool) -> None:
    """With all freedom of an affine map the registration makes faces alike that are not one picture."""
    picture = scene(9)
    found = registered(cut(picture), cut(picture, change, *(16 * (1 - change.sum(axis=1)))), EYE)
    assert (min(found) > 0.95) == plausible
    assert plausible or found == (-1.0, -1.0)


def test_flat_and_black_pictures_match_nothing() -> None:
    flat, black = np.full((SIDE, SIDE), 128, np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    a = cut(scene(6))
    for other in (flat, black):
        for x, y in ((other, other), (a, other), (other, a)):
            assert max(registered(x, y, EYE)) < 0.5


def test_black_outside_does_not_count() -> None:
    """Both photos end in the same place: the black beyond is no agreement."""
    a, b = cut(scene(7)), cut(scene(8))
    inside = registered(a, b, EYE)
    a[:, :16] = b[:, :16] = 0
    assert max(registered(a, b, EYE)) < max(*inside, 0.5) + 0.2
    a[:, :26] = b[:, :26] = 0  # less than a quarter is left to compare
    assert registered(a, b, EYE) == (-1.0, -1.0)


def test_same_picture_decides_each_pair_on_clear_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "_PAIRS", 5)
    pictures = [scene(s) for s in range(6)]
    a = np.stack([cut(p) for p in pictures] * 2)
    b = np.stack([cut(p, 1.0, 0.3, -0.2) for p in pictures] + [cut(p) for p in pictures[1:] + pictures[:1]])
    over = np.repeat(EYE[None], 12, axis=0)
    assert registration._may_match(a, b, over).tolist() == [True] * 6 + [False] * 6
    assert same_picture(a, b, over, 0.85).tolist() == [True] * 6 + [False] * 6
    assert not same_picture(a, b, over, 1.0).any()
    assert same_picture(a[:0], b[:0], over[:0], 0.85).tolist() == []


def test_details_are_what_a_masked_gaussian_leaves() -> None:
    """Slow oracle: the local mean, pixel by pixel, over pixels that count."""
    rng = np.random.default_rng(0)
    look = rng.uniform(0, 255, (1, SIDE, SIDE)).astype(np.float32)
    weight = (rng.random((1, SIDE, SIDE)) > 0.2).astype(np.float32)
    found = registration._details(look, weight)[0]
    for y, x in ((0, 0), (3, 17), (31, 5), (16, 16)):
        gy, gx = np.mgrid[0:SIDE, 0:SIDE]
        w = np.exp(-((gy - y) ** 2 + (gx - x) ** 2) / (2 * registration._SIGMA**2)) * weight[0]
        expected = (look[0, y, x] - (w * look[0]).sum() / w.sum()) * weight[0, y, x]
        assert found[y, x] == pytest.approx(expected, abs=1e-2)


def test_correlations_are_numpys() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 3, 50)).astype(np.float32) * 10
    mask = rng.random((3, 50)) > 0.3
    expected = [np.corrcoef(x[k][mask[k]], y[k][mask[k]])[0, 1] for k in range(3)]
    np.testing.assert_allclose(registration._correlations(x, y, mask), expected, atol=1e-5)
