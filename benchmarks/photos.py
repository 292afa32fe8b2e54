"""Photos for benchmarks: from a folder or zip, or rendered with ground truth."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssfer.core.errors import SsferError
from ssfer.datasets.base import SourceSettings
from ssfer.datasets.registry import open_source
from ssfer.datasets.shared.archives import open_archive
from ssfer.rendered.settings import GenerateSettings

SUFFIXES = (".jpg", ".jpeg", ".png")


def rendered(count: int, size: int, seed: int, workers: int = 1) -> list[tuple[Image.Image, dict[str, Any]]]:
    """Return rendered photos (RGB, size x size) with their truth: `count` people with an expression, then the troubles
    (two heads, none) of the embedded data set; damaged files are left out.
    """
    from ssfer.rendered.generate import generate  # imported here, because only rendering needs its ray caster

    settings = GenerateSettings(seed=seed, size=size, train=count, test=0, people=0, people_identities=1, troubles=True)
    with tempfile.TemporaryDirectory() as folder:
        generate(settings, Path(folder) / "out", workers=workers)
        return list(rendered_in(Path(folder) / "out"))


def rendered_in(folder: Path) -> Iterator[tuple[Image.Image, dict[str, Any]]]:
    """Yield the photos and truths of expressions that were rendered into a folder, without damaged files."""
    entry = {"name": "made", "kind": "rendered", "path": "expressions", "labeled": False, "align": "similarity"}
    source = open_source(SourceSettings(**entry), folder)
    for record in source.records():
        truth = json.loads(record.truth or "{}")
        if truth["trouble"] != "truncated":
            yield Image.open(BytesIO(source.read(record))).convert("RGB"), truth


def from_path(path: Path, count: int | None) -> Iterator[Image.Image]:
    """Yield up to `count` RGB photos of a folder or zip, evenly spaced over its sorted names; None: all.

    Raises:
        SsferError: no photos there.
    """
    archive = open_archive(path)
    names = [name for name in archive.names() if name.lower().endswith(SUFFIXES)]
    if not names:
        raise SsferError(f"expected photos ({', '.join(SUFFIXES)}) in {path}, found none")
    for i in np.unique(np.linspace(0, len(names) - 1, count or len(names)).astype(int)):
        yield Image.open(BytesIO(archive.read(names[i]))).convert("RGB")
