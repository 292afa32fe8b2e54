"""The stored crops of manifest rows as thumbnails: of the whole crop, and of the aligned face."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssfer.copies.changed import aligned_thumbnail
from ssfer.copies.thumbnails import SIDE, Thumbnails, decode_thumbnail, photo_maps
from ssfer.formats.shards import PLACE, ShardReader

_SHAPE = ("matrix", "crop_size", "width", "height")


def parse_hashes(column: pa.ChunkedArray) -> np.ndarray:
    """Return 16-digit hex hashes as (n,) uint64; missing ones become 0, which matches nothing."""
    return np.array([int(v, 16) if v else 0 for v in column.to_pylist()], dtype=np.uint64)


def comparable_hashes(table: pa.Table) -> np.ndarray:
    """Return (n,) uint64 perceptual hashes of manifest rows; 0 without a stored crop or a usable matrix."""
    hashes = parse_hashes(table.column("phash"))
    stored = pc.and_(*(pc.is_valid(table.column(c)) for c in ("shard", "matrix"))).to_numpy()
    hashes[~(stored & np.isfinite(photo_maps(table)[0]).all(axis=(1, 2)))] = 0
    return hashes


class Crops:
    """Reads crops from the shards when they are asked for; picklable, and then as if nothing had been read.

    Args:
        table: manifest rows with source, matrix, crop_size, width, height, landmarks, crop_recipe and `PLACE`.
        faces: folder that holds one folder of shards per source.
    """

    def __init__(self, table: pa.Table, faces: Path) -> None:
        self._faces = faces
        columns = dict.fromkeys(["source", *PLACE, *_SHAPE, "landmarks", "crop_recipe"])
        self._rows = table.select(list(columns)).combine_chunks()

    def close(self) -> None:
        """Close the shards."""
        for reader in self.__dict__.pop("_readers", {}).values():
            reader.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"_faces": self._faces, "_rows": self._rows}

    @cached_property
    def _readers(self) -> dict[str, ShardReader]:
        return {s: ShardReader(self._faces / s) for s in pc.unique(self._rows.column("source")).to_pylist()}

    @cached_property
    def _thumbnails(self) -> Thumbnails:
        return Thumbnails(self._rows.num_rows, self._load)

    def thumbnails(self, rows: np.ndarray) -> np.ndarray:
        """Return the thumbnails of some rows, (k, SIDE, SIDE) uint8."""
        return self._thumbnails.read(rows)

    def maps(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return maps from photo to thumbnail pixels and photo sizes of some rows, see `photo_maps`."""
        return photo_maps(self._rows.select(list(_SHAPE)).take(pa.array(rows)))

    def aligned(self, rows: np.ndarray) -> np.ndarray:
        """Return the aligned faces of some rows, (k, SIDE, SIDE) uint8."""
        faces = np.zeros((len(rows), SIDE, SIDE), np.uint8)
        shapes = self._rows.select(["matrix", "landmarks", "crop_recipe"]).take(pa.array(rows)).to_pylist()
        for face, data, shape in zip(faces, self._read(rows), shapes, strict=True):
            resized = (shape["crop_recipe"] or "").startswith("resize-")
            face[:] = aligned_thumbnail(data, shape["matrix"], shape["landmarks"], not resized)
        return faces

    def _load(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        return map(decode_thumbnail, self._read(rows))

    def _read(self, rows: np.ndarray) -> Iterator[bytes]:
        for place in self._rows.select(["source", *PLACE]).take(pa.array(rows)).to_pylist():
            yield self._readers[place.pop("source")].read(**place)
