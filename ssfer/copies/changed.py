"""Find mirrored, slightly rotated and cropped copies by the aligned faces, because the whole photos differ too much.

Alignment by landmarks undoes rotation and cropping of a photo, so the aligned faces of two copies match, possibly
mirrored, up to a pixel or two. The details (gray values minus their local mean) of every pair are correlated, by matrix
products, where both crops show the photo. The best candidate of each face is registered onto it and must then agree in
gray values and in details. Other photos of the same person do not.

`python -m benchmarks.changed_copies` measures it: one candidate per face finds as many copies as three. Among 250
photos of 350 px and 1,500 changed copies of them, no pair of different photos reached 0.93.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO

import cv2
import numpy as np
from PIL import Image

from ssfer.copies.thumbnails import SIDE, thumbnail
from ssfer.core.process import available_cpus
from ssfer.faces import alignment

AGREEMENT = 0.93  # lowest correlation of gray values and of details
BLOCK = 1024  # faces compared with all others at once
_BLACK = 8  # gray values up to here are outside the photo
_SIGMA = 3.0  # of the local mean, px
_FIRST, _BEST = 0.6, 1  # lowest correlation of details of a candidate, and number of candidates per face
_MIN_OVERLAP = 0.1, 0.2  # share of the thumbnail that both show: of a candidate, and after registration
_MAX_TURN, _MAX_STRETCH = 0.1, 1.1  # limits of a registration: larger ones make one face look like another
_KERNEL = np.ones((3, 3), np.uint8)
_ECC = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)


def aligned_thumbnail(
    crop: bytes, matrix: Sequence[float], landmarks: Sequence[float] | None, aligned: bool
) -> np.ndarray:
    """Return the aligned face of a stored crop as (SIDE, SIDE) uint8 gray values.

    Args:
        crop: the bytes of its file.
        matrix: 2x3, row-major, from photo to crop pixels.
        landmarks: ten numbers in the photo; None: the whole crop is used.
        aligned: whether the crop is already aligned by them.
    """
    with Image.open(BytesIO(crop), formats=("JPEG", "PNG")) as file:
        image = file.convert("RGB")
    if landmarks is None or aligned:
        return thumbnail(image)
    points = alignment.transform_points(np.reshape(landmarks, (5, 2)), np.reshape(matrix, (2, 3)))
    return aligned_face(image, points)


def aligned_face(image: Image.Image, points: np.ndarray) -> np.ndarray:
    """Return the face with these landmarks (5, 2) as (SIDE, SIDE) uint8; the whole image if they are not a face's."""
    try:
        matrix = alignment.estimate_similarity(points, alignment.template(2 * SIDE))
    except ValueError:
        return thumbnail(image)
    return thumbnail(alignment.warp(image, matrix, 2 * SIDE))


@dataclass(frozen=True)
class _Details:
    """Details of n faces, and masks of the pixels that show the photo, (n, SIDE * SIDE) float32 each."""

    values: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, faces: np.ndarray) -> _Details:
        known = np.stack([_photo_mask(face, 2) for face in faces])
        values = np.stack([_details(face, mask) for face, mask in zip(faces, known, strict=True)])
        return cls(values.reshape(len(faces), -1), known.reshape(len(faces), -1).astype(np.float32))

    def correlations(self, others: _Details) -> np.ndarray:
        """Return (n, m) correlations over the pixels that both faces show; -1 if there are too few."""
        dot = self.values @ others.values.T
        squares = (self.values**2 @ others.known.T) * (self.known @ (others.values**2).T)
        overlap = self.known @ others.known.T
        enough = overlap >= _MIN_OVERLAP[0] * self.known.shape[1]
        return np.where(enough, dot / np.maximum(np.sqrt(np.maximum(squares, 0)), 1), -1)


@dataclass(frozen=True)
class KnownFaces:
    """Aligned faces whose mirrored, rotated or cropped copies are looked for.

    Attributes:
        faces: (m, SIDE, SIDE) uint8.
        agreement: lowest correlation of gray values and of details, see `AGREEMENT`.
        threads: that compare.
    """

    faces: np.ndarray
    agreement: float
    threads: int

    @cached_property
    def _known(self) -> _Details:
        return _Details.of(self.faces)

    def copies_in(self, block: np.ndarray) -> list[tuple[int, int]]:
        """Return (i, j), sorted, where face i of a block shows the same photo as face j; the best j only.

        Args:
            block: aligned faces (n, SIDE, SIDE) uint8, compared at once; black ones match nothing.
        """
        best: dict[int, tuple[float, int]] = {}
        if not len(self.faces) or not len(block):
            return []
        for seen in (block, np.ascontiguousarray(block[:, :, ::-1])):
            correlation = _Details.of(seen).correlations(self._known)
            nearest = np.argsort(-correlation, axis=1, kind="stable")[:, :_BEST]
            pairs = [(i, j) for i, row in enumerate(nearest.tolist()) for j in row if correlation[i, j] >= _FIRST]
            with ThreadPoolExecutor(self.threads) as pool:  # OpenCV releases Python's lock
                found = list(
                    pool.map(lambda pair, seen=seen: registered_agreement(seen[pair[0]], self.faces[pair[1]]), pairs)
                )
            for (i, j), value in zip(pairs, found, strict=True):
                best[i] = max(best.get(i, (-1.0, -1)), (value, j))
        return [(i, j) for i, (value, j) in sorted(best.items()) if value >= self.agreement]


def changed_copies(faces: np.ndarray, others: np.ndarray, agreement: float) -> Iterator[tuple[int, int]]:
    """Yield (i, j): faces[i] (n, SIDE, SIDE) shows the same photo as others[j]; see `KnownFaces`."""
    known = KnownFaces(others, agreement, available_cpus())
    for start in range(0, len(faces), BLOCK):
        yield from ((start + i, j) for i, j in known.copies_in(faces[start : start + BLOCK]))


def registered_agreement(face: np.ndarray, other: np.ndarray) -> float:
    """Return the lower of the correlations of gray values and of details of two faces after registration.

    It is -1 if the registration is implausible or the common part is too small.

    Args:
        face: (SIDE, SIDE) uint8.
        other: likewise.
    """
    masks = _photo_mask(face, 1), _photo_mask(other, 1)
    moving, fixed = (_details(v, mask) for v, mask in zip((face, other), masks, strict=True))
    start = np.eye(2, 3, dtype=np.float32)
    try:
        both = masks[0] & masks[1]
        _, best = cv2.findTransformECC(fixed, moving, start.copy(), cv2.MOTION_AFFINE, _ECC, both, 3)
    except cv2.error:  # no convergence
        best = start
    stretch = np.linalg.svd(best[:, :2], compute_uv=False)
    if max(abs(best[0, 1]), abs(best[1, 0])) > _MAX_TURN or stretch[0] > _MAX_STRETCH * stretch[1]:
        return -1.0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved, shown = (cv2.warpAffine(v.astype(np.float32), best, (SIDE, SIDE), flags=flags) for v in (face, masks[0]))
    common = (shown > 0.99) & (masks[1] > 0)
    if common.mean() < _MIN_OVERLAP[1]:
        return -1.0
    fixed = other.astype(np.float32)
    details = _details(moved, common), _details(fixed, common)
    return min(_correlation(moved[common], fixed[common]), _correlation(*(v[common] for v in details)))


def _photo_mask(face: np.ndarray, border: int) -> np.ndarray:
    """Return a mask (SIDE, SIDE) uint8: 1 inside the photo, at least `border` pixels from its edge."""
    shown = cv2.morphologyEx((face > _BLACK).astype(np.uint8), cv2.MORPH_CLOSE, _KERNEL, borderValue=0)
    return np.asarray(cv2.erode(shown, _KERNEL, iterations=border, borderType=cv2.BORDER_CONSTANT, borderValue=1))


def _details(face: np.ndarray, mask: np.ndarray) -> np.ndarray:
    weights, values = mask.astype(np.float32), face.astype(np.float32)
    mean = cv2.GaussianBlur(values * weights, (0, 0), _SIGMA)
    mean = mean / np.maximum(cv2.GaussianBlur(weights, (0, 0), _SIGMA), 1e-6)
    return np.asarray((values - mean) * weights)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / max(float(np.sqrt((x * x).sum() * (y * y).sum())), 1.0))
