"""Read every image of a data set once, in worker processes, into manifest rows and thumbnails.

About 200 bytes per image stay in memory.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ssfer.copies.thumbnails import SIDE, Thumbnails, thumbnail
from ssfer.core import images
from ssfer.core.process_pool import map_in_processes
from ssfer.core.progress import Progress
from ssfer.datasets.base import FileMissing, FileTooLarge, RawRecord, Source
from ssfer.faces.settings import AlignSettings
from ssfer.formats.face_paths import photo_of
from ssfer.formats.manifest import SCHEMA

MAX_PIXELS = AlignSettings().max_pixels
_CHUNK = 256
# The part of a manifest that the examination needs; matrix and crop_size are null for whole photos.
ROWS = pa.schema(
    SCHEMA.field(c) for c in ("status", "sha256", "pixel_sha256", "phash", "width", "height", "matrix", "crop_size")
)


def scan(
    source: Source, records: Sequence[RawRecord], thumbnails: Thumbnails, first: int, workers: int, name: str
) -> pa.Table:
    """Read every record once; return the manifest rows ROWS and write the thumbnails to the rows from `first` on.

    Raises:
        SsferError: a worker process was killed.
    """
    chunks = [records[i : i + _CHUNK] for i in range(0, len(records), _CHUNK)]
    tables = [ROWS.empty_table()]
    with Progress(f"reading {name}", len(records)) as progress:
        for table, small in map_in_processes(read_images, source, chunks, workers, "run again with fewer --workers"):
            tables.append(table)
            thumbnails.write(first + progress.done, small)
            progress.advance(len(small))
    return pa.concat_tables(tables)


def read_images(source: Source, records: Sequence[RawRecord]) -> tuple[pa.Table, np.ndarray]:
    """Return the rows ROWS of some records, damaged ones included, and their thumbnails (k, SIDE, SIDE) uint8."""
    rows: list[dict[str, Any]] = []
    thumbnails = np.zeros((len(records), SIDE, SIDE), np.uint8)
    for record, small in zip(records, thumbnails, strict=True):
        try:
            data = source.read(record)
        except FileMissing:
            rows.append({"status": "missing"})
            continue
        except FileTooLarge:
            rows.append({"status": "too_large"})
            continue
        except Exception:  # a damaged member of an archive can raise anything, and must not stop the others
            rows.append({"status": "unreadable"})
            continue
        decoded = images.decode(data, MAX_PIXELS)
        row: dict[str, Any] = {"status": decoded.status, "sha256": hashlib.sha256(data).hexdigest()}
        if (image := decoded.image) is not None:
            if (part := face_of(image, record)) is not image:
                row["sha256"] += record.path
                image = part
            row |= {"pixel_sha256": images.pixel_sha256(image), "phash": images.phash(image)}
            row |= {"width": image.width, "height": image.height}
            small[:] = thumbnail(image)
        rows.append(row)
    return pa.Table.from_pylist(rows, ROWS), thumbnails


def face_of(photo: Image.Image, record: RawRecord) -> Image.Image:
    """Return the part of a photo that belongs to a record: its box if the photo has several records, else all of it."""
    several = record.face and photo_of(record.path) != record.path
    return _inside(photo, record.face) if several and record.face else photo


def _inside(photo: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """Return the part of a photo in a box, or all of it if the box is outside."""
    x1, y1, x2, y2 = box
    part = max(0, round(x1)), max(0, round(y1)), min(photo.width, round(x2)), min(photo.height, round(y2))
    return photo.crop(part) if part[0] < part[2] and part[1] < part[3] else photo


def read_photo(source: Source, record: RawRecord) -> Image.Image | None:
    """Return the whole upright photo, or None when it cannot be read."""
    try:
        return images.decode(source.read(record), MAX_PIXELS).image
    except Exception:  # as in `read_images`
        return None
