"""MTCNN (Zhang et al. 2016, arXiv 1604.02878) as packaged by facenet-pytorch, weights inside the wheel.

It makes two passes. The first runs on the picture as it is, for faces from an eighth of its shorter side. Pictures in
which it finds nothing (mostly tight crops whose face touches the border) get a second one: enlarged to at least 96 px,
with a neutral border and lower thresholds. On 48 px FER2013 crops this raises the share with a face from 0.81 to 0.95;
the second pass costs time only for pictures that need it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field

from ssfer.core.device import exact_float32
from ssfer.core.settings import Section
from ssfer.faces.alignment import TEMPLATE, estimate_similarity
from ssfer.faces.detectors.base import Detection, Detector
from ssfer.faces.detectors.cascade import FACTOR, Cascade, Found

# Larger pictures are shrunk for detection; with the relative minimum face size more pixels add time, not faces.
_MAX_SIDE = 640
_MIN_PIXELS = 20.0  # side of the smallest face that the networks find
# Equal-size pictures go through the networks together; bounded by pixels so that large ones do not fill the memory.
_BATCH_IMAGES, _BATCH_PIXELS = 32, 4_000_000
# facenet-pytorch crops a candidate at the whole pixel of its box, but adds the landmarks to the unrounded box (half a
# pixel more on average), and counts them from the crop's edge, not from the center of its first pixel (another half).
# Measured on mirrored pictures, whose landmarks must add up to the width - 1: 1.02 px.
_POINT_SHIFT = 1.0
# Where it sets the five points on the template less where RetinaFace (MobileNet) does: the corners of the mouth lower
# and wider. `python -m benchmarks.landmarks --images 551 --borders edge` on press photos, means of both mirror images.
_FROM_RETINAFACE = np.array([[-0.58, -0.81], [-0.24, -0.93], [-0.02, -0.8], [-1.47, 4.41], [2.2, 4.12]])


@dataclass(frozen=True)
class _Pass:
    thresholds: tuple[float, float, float]  # of P-Net, R-Net, O-Net; the last is the lowest score ever reported
    min_side: int  # smaller pictures are enlarged to this shorter side
    border: float  # neutral border, share of the shorter side


_PASSES = (_Pass((0.6, 0.7, 0.3), 0, 0.0), _Pass((0.5, 0.6, 0.3), 96, 0.2))


@dataclass(frozen=True)
class _View:
    """The network's input for a picture: x_view = (x + 0.5) * scale - 0.5 + border."""

    pixels: np.ndarray
    scale: tuple[float, float]
    border: int


class MtcnnDetector(Detector):
    """MTCNN with facenet-pytorch's weights. Results depend on the picture only, up to float rounding in the batch."""

    title = name = "mtcnn"
    has_min_face = True
    paper = "Zhang et al. 2016, arXiv 1604.02878"

    class Settings(Section):
        """Where the landmarks are."""

        points: Literal["own", "retinaface"] = Field(
            "own",
            description="own | retinaface, means of both mirror images, moved to where RetinaFace sets them.",
        )

    def __init__(self, settings: Settings, device: str = "cpu") -> None:
        """See `Detector`."""
        self._moved = settings.points == "retinaface"
        self._cascade = Cascade(device, mirrored=self._moved)
        if self._moved:
            self.name = "mtcnn-mirrored-retinaface_points"

    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        """Return the faces of each RGB image, best score first; boxes are clipped to the image."""
        return self.detect_large(images, [0.0] * len(images))

    def detect_large(self, images: Sequence[Image.Image], sides: Sequence[float]) -> list[Detection]:
        """See `Detector.detect_large`; the largest pictures of the pyramid are left out, which show small faces."""
        found = [Detection()] * len(images)
        for settings in _PASSES:
            missing = [i for i, detection in enumerate(found) if not len(detection)]
            for i, detection in zip(
                missing, self._run([(images[i], sides[i]) for i in missing], settings), strict=True
            ):
                found[i] = detection
        return [_moved(one) for one in found] if self._moved else found

    def _run(self, wanted: Sequence[tuple[Image.Image, float]], settings: _Pass) -> list[Detection]:
        max_side = _MAX_SIDE if self.min_face is None else max(_MAX_SIDE, round(_MIN_PIXELS / self.min_face))
        views = [_view(image, settings, max_side) for image, _ in wanted]
        groups: dict[tuple[int, int, float], list[int]] = {}
        for i, (view, (_, side)) in enumerate(zip(views, wanted, strict=True)):
            height, width, _ = view.pixels.shape
            smallest = self._smallest(height, width, settings.border)
            left_out = max(0, math.floor(math.log(max(side * min(view.scale), 1) / smallest, 1 / FACTOR)))
            groups.setdefault((height, width, smallest / FACTOR**left_out), []).append(i)
        results = [Detection()] * len(wanted)
        for (height, width, smallest), members in groups.items():
            step = max(1, min(_BATCH_IMAGES, _BATCH_PIXELS // (height * width)))
            for start in range(0, len(members), step):
                batch = members[start : start + step]
                with exact_float32():
                    faces = self._cascade.find([views[i].pixels for i in batch], smallest, settings.thresholds)
                for i, one in zip(batch, faces, strict=True):
                    results[i] = _to_image(one, views[i], wanted[i][0].size)
        return results

    def _smallest(self, height: int, width: int, border: float) -> float:
        """Return the side of the smallest face, pixels, in a view of this size."""
        short, long = sorted((height, width))
        inner = short / (1 + 2 * border)
        return max(_MIN_PIXELS, inner / 8 if self.min_face is None else self.min_face * (long - short + inner))


def _view(image: Image.Image, settings: _Pass, max_side: int) -> _View:
    short, long = min(image.size), max(image.size)
    scale = min(max(1.0, settings.min_side / short), max_side / long)
    width, height = (max(1, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        resample = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
        shown = image.resize((width, height), resample, reducing_gap=2.0 if scale < 1 else None)
    else:
        shown = image
    border = round(min(width, height) * settings.border)
    pixels = np.asarray(shown)
    if border:
        pixels = np.pad(pixels, ((border, border), (border, border), (0, 0)), constant_values=128)
    return _View(pixels, (width / image.width, height / image.height), border)


def _moved(found: Detection) -> Detection:
    """Return the faces with landmarks as RetinaFace sets them; points that are no face's stay."""
    landmarks = found.landmarks.copy()
    for points in landmarks:
        with suppress(ValueError):
            matrix = estimate_similarity(points, TEMPLATE + _FROM_RETINAFACE)
            points -= _FROM_RETINAFACE @ np.linalg.inv(matrix[:, :2]).T
    return replace(found, landmarks=landmarks)


def _to_image(found: Found, view: _View, size: tuple[int, int]) -> Detection:
    landmarks = found.landmarks - _POINT_SHIFT
    corners, landmarks = (
        (c - view.border + 0.5) / np.tile(view.scale, c.shape[-1] // 2) - 0.5 for c in (found.boxes, landmarks)
    )
    corners = np.clip(corners, 0, np.tile(size, 2))
    # Faces entirely outside the picture, in its border, are dropped.
    keep = (corners[:, 2] - corners[:, 0] >= 1) & (corners[:, 3] - corners[:, 1] >= 1)
    keep &= np.isfinite(landmarks).all(axis=(1, 2))
    return Detection(corners[keep].astype(np.float32), landmarks[keep].astype(np.float32), found.scores[keep])
