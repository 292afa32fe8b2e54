"""Small fakes of data sets as folders and zips, for the tests of ssfer.datasets."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ssfer.datasets.base import Count, Source


def png(seed: int = 0) -> bytes:
    """Return a 48x48 grey image of noise."""
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 48), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_as(kind: str, root: Path, files: Mapping[str, bytes], name: str = "set") -> Path:
    """Write files as a "folder" or a "zip" and return its path."""
    return write_files(root / name, files) if kind == "folder" else write_zip(root / f"{name}.zip", files)


def in_a_worker(source: Source) -> Source:
    """Return the source as a worker process gets it."""
    copy: Source = pickle.loads(pickle.dumps(source))
    return copy


def expected(counts: list[Count]) -> dict[tuple[str, str], int]:
    """Return the published numbers by part and name."""
    return {(c.part, c.name): c.expected for c in counts}


def found(counts: list[Count]) -> dict[tuple[str, str], int]:
    """Return the numbers found that are not zero, by part and name."""
    return {(c.part, c.name): c.found for c in counts if c.found}
