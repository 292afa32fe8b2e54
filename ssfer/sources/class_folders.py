"""Labeled photos arranged as <usage>/<class name>/<photo>, in a folder or a zip: the way in for any data set.

Usage is train, valid or test; class names are the canonical ones (ssfer.labels), upper or lower case. RAF-DB and
AffectNet come in layouts of their own and with numbers that mean different expressions in each; arranged by name they
cannot be confused. One folder around everything, as zip tools add it, is accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ssfer.errors import SsferError, unknown_name
from ssfer.images import EXTENSIONS
from ssfer.labels import EXPRESSIONS
from ssfer.sources.base import RawRecord
from ssfer.sources.photo_archive import PhotoArchive

USAGES = ("train", "valid", "test")


class ClassFolderSource(PhotoArchive):
    """Every photo below <usage>/<class name>/, at any depth."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        skip = _outer_folders(self._photos)
        self._records = [_record(name, name.parts[skip:], path) for name in self._photos]
        if not any(record.usage == "train" for record in self._records):
            raise SsferError(
                f"expected photos ({', '.join(EXTENSIONS)}) in {path}/train/<class name>/, found {len(self._photos)} "
                f"photos and none there; arrange them as <{'|'.join(USAGES)}>/<class name>/<photo>"
            )


def _outer_folders(photos: Sequence[PurePosixPath]) -> int:
    """Return 1 when one folder, which is no usage, holds everything; else 0."""
    tops = {name.parts[0] for name in photos}
    return int(len(tops) == 1 and tops.pop().lower() not in USAGES and all(len(n.parts) > 1 for n in photos))


def _record(name: PurePosixPath, parts: Sequence[str], path: Path) -> RawRecord:
    if len(parts) < 3:
        raise SsferError(
            f"expected every photo of {path} in <{'|'.join(USAGES)}>/<class name>/, found '{name}'; move or remove it"
        )
    usage, label = parts[0].lower(), parts[1].lower()
    if usage not in USAGES:
        raise unknown_name(f"usage folder (of '{name}' in {path})", parts[0], USAGES)
    if label not in EXPRESSIONS:
        raise unknown_name(f"class folder (of '{name}' in {path})", parts[1], EXPRESSIONS)
    return RawRecord(str(name), label=label, usage=usage)
