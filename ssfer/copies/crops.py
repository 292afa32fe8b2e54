"""Folders of faces this project wrote (data/faces/<source>, data/corpus): their manifest holds the hashes already.

A stored crop is not the photo. Its alignment matrix says which part of the photo it shows, so it can still be compared
with a whole picture; the crops themselves are read only where a hash makes a candidate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ssfer.copies.scan import OK, SIDE, Columns, Pictures, small_picture
from ssfer.datasets.base import RawRecord, Source
from ssfer.faces.alignment import resize_matrix
from ssfer.formats.manifest import STATUSES, read_manifest

_COLUMNS = ["status", "sha256", "pixel_sha256", "phash", "width", "height", "matrix", "crop_size"]
_PLACES = ["shard", "offset", "size"]
_BLOCK = 65_536


def columns_of_crops(folder: Path) -> Columns | None:
    """Return the columns of a folder of aligned faces from its manifest, or None when its images are to be scanned.

    Crops whose shard is missing or cut short count as unreadable.
    """
    table = read_manifest(folder).select(_COLUMNS + _PLACES)
    stored = table.filter(pc.is_valid(table.column("shard")))
    if not stored.num_rows or any(stored.column(c).null_count for c in ("pixel_sha256", "phash", "matrix")):
        return None
    columns = Columns.empty(table.num_rows)
    matrices = np.full((table.num_rows, 6), np.nan)
    here = _is_here(table, folder)
    start = 0
    for batch in table.select(_COLUMNS).to_batches(max_chunksize=_BLOCK):
        rows = slice(start, start + batch.num_rows)
        start += batch.num_rows
        value = {name: batch.column(name).to_pylist() for name in batch.schema.names}
        columns.status[rows] = [_status(s) for s in value["status"]]
        columns.sha[rows] = _digests(value["sha256"])
        columns.pixels[rows] = _digests(value["pixel_sha256"])
        columns.phash[rows] = [int(h, 16) if h else 0 for h in value["phash"]]
        columns.size[rows] = [(w or 0, h or 0) for w, h in zip(value["width"], value["height"], strict=True)]
        matrices[rows] = [_matrix(m, s) for m, s in zip(value["matrix"], value["crop_size"], strict=True)]
    columns.status[~here] = STATUSES.index("unreadable")
    columns.matrix = matrices
    return columns


def add_pictures(
    source: Source, records: Sequence[RawRecord], rows: np.ndarray, first: int, pictures: Pictures
) -> None:
    """Read the stored crops of some rows and write their pictures; unreadable ones stay black and match nothing."""
    for row in rows.tolist():
        try:
            with Image.open(BytesIO(source.read(records[row])), formats=("JPEG", "PNG")) as image:
                pictures.write(first + row, small_picture(image))
        except Exception:  # damage is one image's, as in the scan
            continue


def _status(value: str) -> int:
    """Whether a face was found does not matter here."""
    return OK if value in ("no_face", "several_faces") else STATUSES.index(value)


def _digests(values: list[str | None]) -> np.ndarray:
    """Return (n, 32) uint8; zero for missing values."""
    digests = [bytes(32) if v is None else _digest(v) for v in values]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def _digest(value: str) -> bytes:
    try:
        digest = bytes.fromhex(value)
    except ValueError:
        digest = b""
    return digest if len(digest) == 32 else hashlib.sha256(value.encode()).digest()


def _matrix(values: list[float] | None, crop: int | None) -> np.ndarray:
    if values is None or not crop:
        return np.full(6, np.nan)
    to_crop = np.vstack([np.reshape(values, (2, 3)), [0.0, 0.0, 1.0]])
    return (resize_matrix(crop, crop, SIDE) @ to_crop).ravel()


def _is_here(table: pa.Table, folder: Path) -> np.ndarray:
    """Return (n,) bool: whether the shard of a row is as long as the row says; True for rows without an image."""
    sizes = {
        shard: path.stat().st_size if (path := folder / shard).is_file() else 0
        for shard in pc.unique(table.column("shard")).to_pylist()
        if shard is not None
    }
    rows = zip(*(table.column(c).to_pylist() for c in _PLACES), strict=True)
    return np.array([shard is None or offset + size <= sizes[shard] for shard, offset, size in rows])
