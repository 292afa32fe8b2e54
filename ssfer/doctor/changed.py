"""Find training images that are mirrored, rotated or cropped copies of evaluated ones: detect and align faces.

This is much slower than the rest of an examination (tens of photos per second and core), so `--faces` limits it.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from PIL import Image

from ssfer.copies.changed import AGREEMENT, aligned_face, changed_copies
from ssfer.copies.thumbnails import SIDE, thumbnail
from ssfer.core.process_pool import map_in_processes
from ssfer.core.progress import Progress
from ssfer.datasets.base import RawRecord, Source
from ssfer.doctor.scan import face_of, read_photo
from ssfer.faces import border
from ssfer.faces.detectors.base import Detector
from ssfer.faces.detectors.registry import build_detector
from ssfer.faces.settings import AlignSettings
from ssfer.faces.workers import one_thread

_CHUNK = 64
_ALIGN = AlignSettings()  # the defaults of stage align
_LARGEST = 512  # px; larger photos are shrunk before detection

Items = Sequence[tuple[Source, RawRecord]]


def changed_pairs(training: Items, evaluated: Items, correlation: float, workers: int) -> Iterator[tuple[int, int]]:
    """Yield (i, j): training[i] is a copy of evaluated[j], by its aligned face.

    Args:
        training: source and record of each image.
        evaluated: the same for evaluated images.
        correlation: least correlation of copies; values below `AGREEMENT` count as that.
        workers: processes.

    Raises:
        SsferError: a worker process was killed.
    """
    both = [*training, *evaluated]
    chunks = [both[i : i + _CHUNK] for i in range(0, len(both), _CHUNK)]
    faces = [np.zeros((0, SIDE, SIDE), np.uint8)]
    with Progress("looking for faces", len(both)) as progress:
        for found in map_in_processes(aligned_faces, None, chunks, workers, "run again with fewer --workers"):
            faces.append(found)
            progress.advance(len(found))
    together = np.concatenate(faces)
    yield from changed_copies(together[: len(training)], together[len(training) :], max(AGREEMENT, correlation))


def aligned_faces(_: None, items: Items) -> np.ndarray:
    """Return aligned faces (k, SIDE, SIDE), uint8; a photo without a face is shown whole, an unreadable one black."""
    faces = np.zeros((len(items), SIDE, SIDE), np.uint8)
    photos: dict[int, Image.Image] = {}
    for i, (source, record) in enumerate(items):
        if (photo := read_photo(source, record)) is not None:
            photos[i] = face_of(photo, record)
            photos[i].thumbnail((_LARGEST, _LARGEST))
    with one_thread():
        detections = border.detect(_detector(), list(photos.values()), _ALIGN.border, _ALIGN.min_score)
    for (i, photo), detection in zip(photos.items(), detections, strict=True):
        faces[i] = aligned_face(photo, detection.landmarks[0]) if len(detection) else thumbnail(photo)
    return faces


@cache
def _detector() -> Detector:
    return build_detector(_ALIGN.detector)
