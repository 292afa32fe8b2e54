"""From one raw image to a manifest row and (usually) a JPEG crop; no image can stop the run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from PIL import Image

from ssfer.core import images
from ssfer.core.images import fallback_box
from ssfer.datasets.base import FileMissing, FileTooLarge, RawRecord
from ssfer.faces import alignment as align
from ssfer.faces import border, turned
from ssfer.faces.choice import describe, first_by, on_annotated
from ssfer.faces.detectors.base import Detection, Detector
from ssfer.faces.landmark_check import landmark_flag
from ssfer.faces.settings import AlignSettings
from ssfer.formats.face_paths import face_path
from ssfer.formats.manifest import SCHEMA

# Images decoded at the same time: enough for full detector batches, few enough for memory (at most ~0.4 GB, twice that
# with borders).
_WINDOW_IMAGES, _WINDOW_PIXELS = 128, 64_000_000
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
        """Yield the faces of the records, in order. Records are processed in windows so that the detector can batch.

        A record gives one Face, or one per detected face with `align.all_faces`.
        """
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
            found, degrees = self._detect(photos)
            others = self._detect_as_it_is(self._second, photos) if self._second else [None] * len(photos)
            looks = zip(found, degrees, others, strict=True)
            window = [one for face in window for one in (self._faces_of(face, *next(looks)) if face.image else [face])]
        else:
            for face in live:
                self._resize(face)
        live = [face for face in window if face.crop is not None]
        # The second pass detects on the crop, the image that networks get (specification section 3).
        for face, detection in zip(live, self._detector.detect_checked([f.crop for f in live if f.crop]), strict=True):
            self._box(face, detection)
            assert face.crop is not None
            face.jpeg = images.encode_jpeg(face.crop, self._params.quality)
        for face in window:
            face.image = face.crop = None
            yield face

    def _detect(self, photos: list[Image.Image]) -> tuple[list[Detection], list[int]]:
        """Return the faces of each photo, and by how many degrees it was rotated to find them."""
        if not self._params.turned:
            return self._detect_as_it_is(self._detector, photos), [0] * len(photos)
        return turned.detect(lambda some: self._detect_as_it_is(self._detector, some), photos)

    def _detect_as_it_is(self, detector: Detector, photos: list[Image.Image]) -> list[Detection]:
        return border.detect(detector, photos, self._params.border, self._params.min_score)

    def _faces_of(self, face: Face, found: Detection, degrees: int, other: Detection | None) -> list[Face]:
        """Return a photo's aligned face; with `align.all_faces`, every face of a photo without a label."""
        assert face.image is not None
        every = self._params.all_faces and face.row["label"] is None and face.annotated is None and len(found) > 1
        if not every:
            self._align(face, found, degrees, other)
            return [face]
        found = first_by(self._params.several_faces, found, face.image.size)
        faces = {face.row["path"]: face}
        for i, box in enumerate(found.boxes):
            path = face_path(face.row["path"], box.tolist()) if i else face.row["path"]
            row = {**face.row, "path": path, "sample_id": f"{self._source}/{path}"}
            row["identity"] = None if i else face.row["identity"]  # a photo's name or folder is one person's
            faces[path] = replace(face, row=row)
            first = [i, *(k for k in range(len(found)) if k != i)]
            self._align(faces[path], found.at(np.array(first)), degrees, other, "all")
        return list(faces.values())

    def _align(self, face: Face, found: Detection, degrees: int, other: Detection | None, choice: str = "only") -> None:
        """Set status and crop from the faces that the detector, and the second one, found in the photo.

        Args:
            face: of the photo; changed in place.
            found: its faces.
            degrees: by which the photo was rotated to find them.
            other: faces found by the second detector; None: there is none.
            choice: "all": the first of `found` is taken; else it is chosen by annotation or policy.
        """
        assert face.image is not None
        if choice == "all":
            pass
        elif face.annotated is not None:
            found, choice = on_annotated(found, face.annotated), "annotated"
        elif len(found) > 1 and self._params.several_faces != "drop":
            found, choice = first_by(self._params.several_faces, found, face.image.size), self._params.several_faces
        describe(face.row, found, choice)
        if not len(found):
            return self._without_face(face)
        if len(found) > 1 and choice == "only":  # several_faces: drop
            face.row["face_choice"] = None
            return None
        size = self._params.size
        try:
            face.matrix = align.estimate_similarity(found.landmarks[0], align.template(size))
        except ValueError:  # the points are not those of a face: treated as no face found
            describe(face.row, Detection())
            return self._without_face(face)
        face.row["landmark_flag"] = landmark_flag(found.boxes[0], found.landmarks[0], other)
        how = f"{'-border' if found.bordered[0] else ''}{'-turned' if degrees else ''}"
        self._warp(face, f"{self._detector.name}{how}-similarity5-v2")
        return None

    def _without_face(self, face: Face) -> None:
        """Crop a photo without a detected face: around the annotated box if there is one, else by `align.no_face`."""
        assert face.image is not None
        (width, height), policy = face.image.size, self._params.no_face
        if face.annotated is not None:
            x1, y1, x2, y2 = face.annotated
            if x1 < width and y1 < height and x2 > 0 and y2 > 0:
                self._cut(face, face.annotated, "box-v1")
        elif policy == "keep":
            self._resize(face)
        elif policy == "crop":
            side = min(width, height)
            x, y = (width - side) / 2, (height - side) / 2
            self._cut(face, (x, y, x + side, y + side), "middle-v1")

    def _warp(self, face: Face, recipe: str) -> None:
        assert face.image is not None and face.matrix is not None
        size, outside = self._params.size, self._params.outside
        face.crop = align.warp(face.image, face.matrix, size, outside)
        face.row["crop_recipe"] = f"{recipe}-{size}" if outside == "black" else f"{recipe}-{outside}-{size}"

    def _cut(self, face: Face, box: tuple[float, float, float, float], recipe: str) -> None:
        """Crop the square around a box in which the detector found nothing."""
        assert face.image is not None
        size, side = self._params.size, max(box[2] - box[0], box[3] - box[1])
        scale, x, y = size / side, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        middle = (size - 1) / 2
        face.matrix = np.array([[scale, 0.0, middle - scale * x], [0.0, scale, middle - scale * y]])
        self._warp(face, recipe)

    def _resize(self, face: Face) -> None:
        assert face.image is not None
        size = self._params.size
        face.matrix = align.resize_matrix(*face.image.size, size)
        face.crop = align.resize(face.image, size)
        face.row["crop_recipe"] = f"resize-v1-{size}"

    def _box(self, face: Face, on_crop: Detection) -> None:
        """Set the crop's face box; for sources that are only resized, also whether a face was found.

        `several_faces: drop` does not apply to those: their images are already face crops, where a second detection is
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
            describe(face.row, Detection(np.array(boxes), np.array(points), found.scores), choice)


def crop_box(on_crop: Detection, size: int) -> np.ndarray | None:
    """Return the integer face box (4,) on a crop, or None unless exactly one face was found (specification section 3).

    Corners are rounded half up and clipped to the crop; a box without area counts as none.
    """
    if len(on_crop) != 1:
        return None
    box = np.clip([math.floor(v + 0.5) for v in on_crop.boxes[0].tolist()], 0, size).astype(np.float64)
    return box if box[2] > box[0] and box[3] > box[1] else None
