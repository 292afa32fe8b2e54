"""Smooth random photos, copies of them, and small finished sources of faces."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageEnhance

from ssfer.core.images import encode_jpeg, phash, pixel_sha256
from ssfer.faces import alignment
from ssfer.formats.manifest import MANIFEST_NAME, SCHEMA, read_manifest, write_manifest
from ssfer.formats.shards import ShardWriter
from tests.support.image_files import encoded, picture


def photo(seed: int) -> Image.Image:
    return picture(110, 96, seed)


def copies(photo: Image.Image) -> list[Image.Image]:
    """Return the same picture as it comes back from the internet."""
    again = Image.open(BytesIO(encoded(photo, "JPEG", quality=55))).convert("RGB")
    smaller = photo.resize((photo.width * 4 // 5, photo.height * 4 // 5), Image.Resampling.BICUBIC)
    return [again, smaller, ImageEnhance.Brightness(photo).enhance(1.1), photo.convert("L").convert("RGB")]


def write_faces(
    folder: Path, photos: list[tuple[Image.Image, dict[str, Any]]], size: int = 64, degrees: float = 0.0
) -> pa.Table:
    """Write photos as a finished source: crops jittered as by a detector; turned ones show the middle 60 %.

    Args:
        folder: its name is the source's.
        photos: with what differs from the usual manifest row.
        size: side of the crops.
        degrees: by which they are turned.
    """
    rng = np.random.default_rng(len(photos))
    source = folder.name
    rows = []
    with ShardWriter(folder / "shard-00000.tar") as shard:
        for i, (photo, changes) in enumerate(photos):
            scale = size / min(photo.size) * rng.uniform(0.95, 1.15)
            shift = rng.uniform(-4, 4, 2)
            matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
            if degrees:
                scale, angle = size / (0.6 * photo.width), np.deg2rad(degrees)
                turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
                matrix = np.hstack([turn, (size / 2 - turn @ (np.array(photo.size) / 2))[:, None]])
            data = encode_jpeg(alignment.warp(photo, matrix, size), 95)
            row = dict.fromkeys(SCHEMA.names)
            row |= dict(zip(("shard", "offset", "size"), shard.add(f"{i}.jpg", data), strict=True))
            row |= {"sample_id": f"{source}/{i}", "source": source, "path": str(i), "usage": "train", "status": "ok"}
            row |= {"sha256": f"{source}{i}", "pixel_sha256": pixel_sha256(photo), "phash": phash(photo)}
            row |= {"width": photo.width, "height": photo.height, "face_found": True, "num_faces": 1, "score": 0.99}
            row |= {"box": [10.0, 10.0, 50.0, 60.0], "matrix": matrix.ravel().tolist(), "crop_size": size}
            rows.append(row | changes)
    write_manifest(rows, folder / MANIFEST_NAME)
    return read_manifest(folder)
