"""Folders without photos beside the class folders of a data set: no class comes of them, and nobody sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ssfer.core.images import EXTENSIONS
from ssfer.core.labels import class_name
from ssfer.datasets.base import RawRecord
from ssfer.datasets.shared.archives import is_junk, open_archive
from ssfer.datasets.shared.parts import part_word


def empty_folders(path: Path, records: Sequence[RawRecord]) -> list[str]:
    """Return a sentence per folder that has no photos and lies where class folders do, or above them.

    Args:
        path: of a data set with class folders; a zip has no such folders.
        records: its photos.
    """
    if not path.is_dir():
        return []
    labeled = [PurePosixPath(record.path) for record in records if record.label]
    used = {str(folder) for record in records for folder in PurePosixPath(record.path).parents}
    depth = min(len(photo.parts) for photo in labeled) - 1 if labeled else 0
    known = {record.label for record in records} | {photo.parent.name for photo in labeled}

    def is_known(last: str) -> bool:
        return bool({last, class_name(last)} & known or part_word(last))

    return [
        f"folder {name} has no photos{'' if is_known(PurePosixPath(name).name) else ' and is not a class'}"
        for name in _empty(path, "", depth, used)
    ]


def _empty(root: Path, below: str, depth: int, used: set[str]) -> Iterator[str]:
    """Yield the names of the folders without photos below a folder, at most `depth` levels down."""
    for entry in sorted((root / below).iterdir()) if depth > 0 else ():
        name = f"{below}{entry.name}"
        if not entry.is_dir() or is_junk(name):
            continue
        if name in used or any(file.lower().endswith(EXTENSIONS) for file in open_archive(entry).names()):
            yield from _empty(root, f"{name}/", depth - 1, used)
        else:
            yield name
