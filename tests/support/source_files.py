"""Small fakes of data sets as folders and zips, for the tests of ssfer.datasets."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssfer.datasets.base import Count, Source, SourceSettings
from ssfer.datasets.registry import SOURCES
from ssfer.testing.importers import check_importer


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


def entry(kind: str, path: str = "set", **settings: Any) -> SourceSettings:
    """Return a valid entry of data.sources, labeled and to be resized, with these settings."""
    values = {"name": "set", "kind": kind, "path": path, "labeled": True, "align": "resize", **settings}
    return SOURCES[kind].Settings.model_validate(values)


def open_kind(kind: str, path: Path, **settings: Any) -> Any:
    """Return the importer of a kind opened at a path, which keeps the contract; `open_source` checks more."""
    source = SOURCES[kind](path, entry(kind, path.name, **settings))
    check_importer(source)
    return source


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
