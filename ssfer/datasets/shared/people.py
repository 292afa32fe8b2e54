"""Unlabeled photos of people, from folders or insightface's .rec file: base of the importers of such data sets.

A .rec file is read from a folder only; the file `property` beside it, if present, contains "people,height,width".
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ssfer.core.errors import SsferError
from ssfer.core.images import EXTENSIONS
from ssfer.datasets.base import RawRecord, Source, SourceSettings
from ssfer.datasets.shared.photo_archive import PhotoArchive
from ssfer.datasets.shared.recordio import RecordFile

RECORDS, PROPERTY = "train.rec", "property"
_SAMPLE = 1000


def has_records(names: Sequence[str]) -> bool:
    """Return whether a packed set is among the names."""
    return any(PurePosixPath(n).name == RECORDS for n in names if n.endswith(".rec")) or (
        len(names) == 1 and names[0].endswith(".rec")
    )


def mostly(names: Sequence[str], pattern: re.Pattern[str]) -> bool:
    """Return whether `pattern` matches nine of ten names of photos, in a sample spread over all names."""
    sample = [n for n in names[:: max(1, len(names) // _SAMPLE)] if n.lower().endswith(EXTENSIONS)]
    return bool(sample) and sum(pattern.search(n) is not None for n in sample) >= 0.9 * len(sample)


class PeoplePhotos(Source):
    """Every photo below a folder or zip, or in a .rec file.

    `people` is the number of identities; `claimed` is the number in the file `property`, None without it.
    """

    notes: list[str]

    def __init__(self, path: Path, settings: SourceSettings) -> None:
        file = _record_file(path)
        self.packed = file is not None
        self._photos = _PackedPhotos(file) if file else _FolderPhotos(path, settings)
        self.dropped = self._photos.dropped
        self.people = len({r.identity for r in self.records()} - {None})
        self.claimed = _property(file.with_name(PROPERTY)) if file else None
        self.notes = []
        if self.packed:
            self.notes.append(
                ".rec files hold 112 px ArcFace crops, much tighter than the crops made here: enlarged, with less of "
                "forehead and chin than other photos in the same corpus"
            )
            if self.claimed not in (None, self.people):
                self.notes.append(f"'{PROPERTY}' says {self.claimed:,} people, the labels name {self.people:,}")

    def records(self) -> list[RawRecord]:
        """See `Source.records`."""
        return self._photos.records()

    def read(self, record: RawRecord) -> bytes:
        """See `Source.read`."""
        return self._photos.read(record)

    def stamp(self, record: RawRecord) -> str:
        """See `Source.stamp`."""
        return self._photos.stamp(record)

    def require(self, pattern: re.Pattern[str], layout: str, path: Path) -> None:
        """Raise SsferError if a photo's path does not match `pattern`; `layout` describes the expected paths."""
        other = next((r.path for r in self.records() if not pattern.search(r.path)), None)
        if other:
            raise SsferError(
                f"expected every photo of {path} at {layout}, found '{other}'; move it, or use 'kind: identities', "
                "which takes any folders"
            )


class _FolderPhotos(PhotoArchive):
    """Photos as files."""

    def __init__(self, path: Path, settings: SourceSettings) -> None:
        super().__init__(path, settings)
        self._records = [RawRecord(str(name), identity=name.parent.name or None) for name in self._photos]
        if not self._photos:
            packed = has_records(self._archive.names())
            raise SsferError(
                f"expected one folder of photos ({', '.join(EXTENSIONS)}) per person in {path}, found "
                f"{self.dropped['not_an_image']} files and no photo among them"
                + (f"; unpack the archive, {RECORDS} is read from a folder only" if packed else "")
            )


class _PackedPhotos:
    """Photos of a .rec file, named <file>/<key>.jpg; the identity is the label's number."""

    def __init__(self, path: Path) -> None:
        self._file = RecordFile(path)
        self.dropped = Counter({"identity_record": self._file.others})
        self._records: list[RawRecord] | None = None

    def records(self) -> list[RawRecord]:
        if self._records is None:
            people = {number: str(number) for number in np.unique(self._file.labels).tolist()}
            self._records = [
                RawRecord(f"{self._file.path.name}/{key:08d}.jpg", identity=people[label])
                for key, label in zip(self._file.keys.tolist(), self._file.labels.tolist(), strict=True)
            ]
        return self._records

    def read(self, record: RawRecord) -> bytes:
        return self._file.read(_key(record))

    def stamp(self, record: RawRecord) -> str:
        return self._file.stamp(_key(record))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_records": None}  # millions of records; made again on demand


def _key(record: RawRecord) -> int:
    return int(PurePosixPath(record.path).stem)


def _record_file(path: Path) -> Path | None:
    """Return the .rec file that `path` is or contains, directly or one folder below; None if there is none."""
    if path.is_file():
        return path if path.suffix == ".rec" else None
    found = [path / RECORDS] if (path / RECORDS).exists() else sorted(path.glob(f"*/{RECORDS}"))
    if len(found) > 1:
        raise SsferError(f"expected one {RECORDS} in {path}, found {len(found)}; make each a source of its own")
    return found[0] if found else None


def _property(path: Path) -> int | None:
    """Return the number of people in the file `property`; None if there is no file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        text = file.read(100).decode("ascii", "replace").strip()
    if not re.fullmatch(r"\d{1,9},\d{1,5},\d{1,5}", text):
        raise SsferError(f"expected 'people,height,width' in {path}, found '{text[:40]}'; copy the file again")
    return int(text.split(",")[0])
