"""One raw image in, one manifest row and (usually) one JPEG crop out; no image can stop the run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image

from ssfer.core import images
from ssfer.core.images import fallback_box
from ssfer.datasets.base import FileMissing, FileTooLarge, RawRecord
from ssfer.faces import alignment as align
from ssfer.faces import border
from ssfer.faces.detectors.base import Detection, Detector
from ssfer.faces.landmark_check import landmark_flag
from ssfer.faces.settings import AlignSettings
from ssfer.formats.manifest import SCHEMA

# Images decoded at the same time: enough for full detector batches, few enough for memory (at most ~0.4 GB, and as much
# again for those with a border).
_WINDOW_IMAGES, _WINDOW_PIXELS = 128, 64_000_000
_MIN_ANNOTATED_IOU = 0.3
Mode = Literal["similarity", "resize"]


@dataclass
class Face:
    """A manifest row without shard, offset and size, and the crop's JPEG bytes (None: nothing is stored)."""

    row: dict[str, Any]
    jpeg: bytes | None = None
    image: Image.Image | None = field(default=None, repr=False)  # upright input, only while being worked on
    crop: Image.Image | None = field(default=None, repr=False)
    matrix: np.ndarray | None = field(default=None, repr=False)
    annotated: tuple[float, float, float, float] | None = None  # RawRecord.face


class FaceProcessor:
    """Decode, hash, detect, align or resize, and box the face in the crop, for one source."""

    def __init__(
        self, source: str, mode: Mode, params: AlignSettings, detector: Detector, second: Detector | None = None
    ) -> None:
        """Build it; `second` is the detector of `align.second_detector`."""
        self._source, self._mode, self._params, self._detector = source, mode, params, detector
        self._second = second

    def process(self, records: Iterable[RawRecord], read: Callable[[RawRecord], bytes]) -> Iterator[Face]:
        """Yield one Face per record, in order. Records are worked on in windows so that the detector can batch."""
        window: list[Face] = []
        pixels = 0
        for record in records:
            face = self._decode(record, read)
            window.append(face)
            pixels += face.image.width * face.image.height if face.image else 0
            if len(window) >= _WINDOW_IMAGES or pixels >= _WINDOW_PIXELS:
                yield from self._finish(window)
                window, pixels = [], 0
        yield from self._finish(window)

    def _decode(self, record: RawRecord, read: Callable[[RawRecord], bytes]) -> Face:
        row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
        row.update(
            sample_id=f"{self._source}/{record.path}",
            source=self._source,
            path=record.path,
            label=record.label,
            usage=record.usage,
            identity=record.identity,
            votes=list(record.votes) if record.votes is not None else None,
            truth=record.truth,
            face_found=False,
            num_faces=0,
        )
        try:
            data = read(record)
        except FileMissing:
            return Face({**row, "status": "missing"})
        except FileTooLarge:
            return Face({**row, "status": "too_large"})
        except Exception:  # a damaged archive member raises anything; it is one image among many
            return Face({**row, "status": "unreadable"})
        row["sha256"] = hashlib.sha256(data).hexdigest()
        decoded = images.decode(data, self._params.max_pixels)
        row["status"] = decoded.status
        if decoded.image is not None:
            image = decoded.image
            row.update(width=image.width, height=image.height)
            row.update(pixel_sha256=images.pixel_sha256(image), phash=images.phash(image))
        return Face(row, image=decoded.image, annotated=record.face)

    def _finish(self, window: list[Face]) -> Iterator[Face]:
        live = [face for face in window if face.image is not None]
        if self._mode == "similarity":
            photos = [face.image for face in live if face.image]
            found = self._detect(self._detector, photos)
            others = self._detect(self._second, photos) if self._second else [None] * len(photos)
            for face, one, other in zip(live, found, others, strict=True):
                self._align(face, one, other)
        else:
            for face in live:
                self._resize(face)
        live = [face for face in live if face.crop is not None]
        # The second pass looks at the crop, as the network will see it (specification section 3).
        for face, detection in zip(live, self._detector.detect([f.crop for f in live if f.crop]), strict=True):
            self._box(face, detection)
            assert face.crop is not None
            face.jpeg = images.encode_jpeg(face.crop, self._params.quality)
        for face in window:
            face.image = face.crop = None
            yield face

    def _detect(self, detector: Detector, photos: list[Image.Image]) -> list[Detection]:
        return border.detect(detector, photos, self._params.border, self._params.min_score)

    def _align(self, face: Face, found: Detection, other: Detection | None) -> None:
        """Set status and crop from the faces found in the photo, and by the second detector."""
        assert face.image is not None
        if face.annotated is not None:
            found, choice = on_annotated(found, face.annotated), "annotated"
        elif len(found) > 1 and self._params.several_faces != "drop":
            found, choice = first_by(self._params.several_faces, found, face.image.size), self._params.several_faces
        else:
            choice = "only"
        _describe(face, found, choice)
        if not len(found):
            return self._resize(face) if face.annotated is None else self._cut(face, face.annotated)
        if len(found) > 1 and choice == "only":  # the policy is to drop it
            face.row["face_choice"] = None
            return None
        size = self._params.size
        try:
            face.matrix = align.estimate_similarity(found.landmarks[0], align.template(size))
        except ValueError:  # five points that are no face: as good as none found
            _describe(face, Detection())
            return self._resize(face)
        face.row["landmark_flag"] = landmark_flag(found.boxes[0], found.landmarks[0], other)
        self._warp(face, f"{self._detector.name}{'-border' if found.bordered[0] else ''}-similarity5-v2")
        return None

    def _warp(self, face: Face, recipe: str) -> None:
        assert face.image is not None and face.matrix is not None
        size, outside = self._params.size, self._params.outside
        face.crop = align.warp(face.image, face.matrix, size, outside)
        face.row["crop_recipe"] = f"{recipe}-{size}" if outside == "black" else f"{recipe}-{outside}-{size}"

    def _cut(self, face: Face, box: tuple[float, float, float, float]) -> None:
        """Crop the square around the data set's own box: the detector found nothing there."""
        assert face.image is not None
        size, side = self._params.size, max(box[2] - box[0], box[3] - box[1])
        scale, x, y = size / side, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        middle = (size - 1) / 2
        face.matrix = np.array([[scale, 0.0, middle - scale * x], [0.0, scale, middle - scale * y]])
        self._warp(face, "box-v1")

    def _resize(self, face: Face) -> None:
        assert face.image is not None
        size = self._params.size
        face.matrix = align.resize_matrix(*face.image.size, size)
        face.crop = align.resize(face.image, size)
        face.row["crop_recipe"] = f"resize-v1-{size}"

    def _box(self, face: Face, on_crop: Detection) -> None:
        """Set the crop's face box; sources that are only resized learn here whether there is a face at all.

        `several_faces: drop` does not apply to those: their images are face crops already, where a second detection is
        more likely an error than a second person.
        """
        assert face.matrix is not None
        size = self._params.size
        box = crop_box(on_crop.above(self._params.box_min_score), size)
        face.row.update(
            matrix=face.matrix.ravel().tolist(),
            crop_size=size,
            crop_box=list(fallback_box(size)) if box is None else box.tolist(),
            crop_box_fallback=box is None,
        )
        if self._mode == "resize":
            back = align.invert(face.matrix)
            found = on_crop.above(self._params.min_score)
            boxes = [align.transform_box(b, back) for b in found.boxes]
            points = [align.transform_points(p, back) for p in found.landmarks]
            choice = "only" if len(found) < 2 else "highest_score"
            _describe(face, Detection(np.array(boxes), np.array(points), found.scores), choice)


def _describe(face: Face, found: Detection, choice: str = "only") -> None:
    """Write what was found in the input image into the row; the first face is the chosen one, by `choice`."""
    some = len(found) > 0
    face.row.update(
        status="no_face" if not some else "ok" if len(found) == 1 else "several_faces",
        face_found=some,
        num_faces=len(found),
        face_choice=choice if some else None,
        box=found.boxes[0].tolist() if some else None,
        landmarks=found.landmarks[0].ravel().tolist() if some else None,
        score=float(found.scores[0]) if some else None,
    )


def first_by(policy: str, found: Detection, size: tuple[int, int]) -> Detection:
    """Return the faces with the chosen one first: by score, area, or nearness to the middle of the (width, height)."""
    boxes = found.boxes.astype(np.float64)
    if policy == "largest":
        rank = -(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    elif policy == "central":
        rank = np.hypot(*((boxes[:, :2] + boxes[:, 2:]) / 2 - np.array(size) / 2).T)
    else:
        rank = -found.scores
    return found.at(np.argsort(rank, kind="stable"))


def on_annotated(found: Detection, box: tuple[float, float, float, float]) -> Detection:
    """Return the face that the data set's box means (largest IoU) first, or none when all overlap by less than 0.3.

    Face boxes of data sets and detectors differ in how much forehead and chin they take in; neighbours hardly overlap.
    """
    overlap = align.iou(found.boxes.astype(np.float64), np.array(box, dtype=np.float64))
    if not len(found) or overlap.max() < _MIN_ANNOTATED_IOU:
        return Detection()
    return found.at(np.argsort(-overlap, kind="stable"))


def crop_box(on_crop: Detection, size: int) -> np.ndarray | None:
    """Return the integer face box (4,) on a crop, or None unless exactly one face was found (specification section 3).

    Corners are rounded half up and clipped to the crop; a box that vanishes is no box.
    """
    if len(on_crop) != 1:
        return None
    box = np.clip([math.floor(v + 0.5) for v in on_crop.boxes[0].tolist()], 0, size).astype(np.float64)
    return box if box[2] > box[0] and box[3] > box[1] else None
