"""Read folders of faces that this project wrote (data/faces/<source>, data/corpus); their manifest has the hashes.

A stored crop is not the photo, but its alignment matrix gives the part of the photo that it shows. To compare it with a
whole photo, the same crop is cut out of that photo. Crops are only read if their hash makes them a candidate.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ssfer.copies.thumbnails import SIDE, decode_thumbnail, resize_maps, thumbnail
from ssfer.datasets.base import RawRecord, Source
from ssfer.doctor.scan import ROWS
from ssfer.faces import alignment
from ssfer.formats.manifest import read_manifest

_PLACE = ("shard", "offset", "size")
_FINER = 4  # a crop is cut at this multiple of SIDE, then averaged, as stored crops are


def rows_of_crops(folder: Path) -> pa.Table | None:
    """Return the rows ROWS of a folder of aligned faces from its manifest, or None when its images must be scanned.

    Crops whose shard is missing or truncated count as unreadable. Whether a face was found does not matter here.
    """
    table = read_manifest(folder).select([*ROWS.names, *_PLACE])
    stored = table.filter(pc.is_valid(table.column("shard")))
    if not stored.num_rows or any(stored.column(c).null_count for c in ("pixel_sha256", "phash", "matrix")):
        return None
    status = np.array(table.column("status").to_pylist(), dtype=object)
    status[np.isin(status, ("no_face", "several_faces"))] = "ok"
    status[~_is_here(table, folder)] = "unreadable"
    return table.select(ROWS.names).set_column(0, ROWS.field("status"), pa.array(status, pa.string()))


def read_crop(source: Source, record: RawRecord) -> np.ndarray:
    """Return the thumbnail of a stored crop; an unreadable one is black and matches nothing."""
    try:
        return decode_thumbnail(source.read(record))
    except Exception:  # one damaged image among many, as in the scan
        return np.zeros((SIDE, SIDE), np.uint8)


def cut_out(photo: Image.Image, to_thumbnail: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut from a photo the crop that was made of another copy of it; return its thumbnail and the map (3, 3) to it.

    The whole photo at SIDE px would be too coarse: it would miss one in six crops that show half a photo's width, and
    nine in ten that show 0.3 of it (250 press photos, copies of 70 % size and JPEG quality 60).

    Args:
        photo: the whole photo, RGB.
        to_thumbnail: (3, 3) map from the other photo to its thumbnail.
        size: width and height of the other photo.
    """
    to_thumbnail = to_thumbnail @ resize_maps((size / photo.size)[None])[0]
    finer = resize_maps(np.full((1, 2), float(_FINER)))[0] @ to_thumbnail
    return thumbnail(alignment.warp(photo, finer[:2], _FINER * SIDE)), to_thumbnail


def _is_here(table: pa.Table, folder: Path) -> np.ndarray:
    """Return (n,) bool: whether the shard of a row is as long as the row says; True for rows without an image."""
    sizes = {
        shard: path.stat().st_size if (path := folder / shard).is_file() else 0
        for shard in pc.unique(table.column("shard")).to_pylist()
        if shard is not None
    }
    rows = zip(*(table.column(c).to_pylist() for c in _PLACE), strict=True)
    return np.array([shard is None or offset + size <= sizes[shard] for shard, offset, size in rows])
