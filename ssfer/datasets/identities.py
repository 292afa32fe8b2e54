"""Photos of people without labels: one folder per identity (LFW and its like), as a folder or a zip, or insightface's
train.rec with train.idx.

A .rec file is read from a folder only; `property`, where it lies beside it, says "people,height,width".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ssfer.core.errors import SsferError
from ssfer.core.images import EXTENSIONS
from ssfer.datasets.base import Count, RawRecord
from ssfer.datasets.shared.photo_archive import PhotoArchive
from ssfer.datasets.shared.recordio import RecordFile

TITLE = "photos of people"
RECORDS, PROPERTY = "train.rec", "property"
TERMS = "unknown: see where you got it from"
# LFW as published: every photo is Name/Name_0001.jpg. Parts of it circulate, so a set of that form only claims to be
# LFW when nearly all people are there.
_LFW_NAME = re.compile(r"(?:^|/)([^/]+)/\1_\d{4}\.jpg$")
_LFW_IMAGES, _LFW_PEOPLE, _LFW_LEAST = 13_233, 5_749, 5_000
# MS1MV1, V2 (faces_emore) and V3 name 85,164, 85,742 and 93,431 people.
_MS1M_PEOPLE = range(84_000, 95_000)
_WEBFACE_PEOPLE = range(10_570, 10_577)
_SAMPLE = 1000


def recognize(names: Sequence[str]) -> bool:
    """Any photos in folders, or a .rec file."""
    return has_records(names) or any("/" in n and n.lower().endswith(EXTENSIONS) for n in names)


def has_records(names: Sequence[str]) -> bool:
    """Say whether a packed set is among the names."""
    return any(PurePosixPath(n).name == RECORDS for n in names if n.endswith(".rec")) or (
        len(names) == 1 and names[0].endswith(".rec")
    )


def mostly(names: Sequence[str], pattern: re.Pattern[str]) -> bool:
    """Say whether nine of ten photos have a name in which `pattern` is found, from a sample spread over all names."""
    sample = [n for n in names[:: max(1, len(names) // _SAMPLE)] if n.lower().endswith(EXTENSIONS)]
    return bool(sample) and sum(pattern.search(n) is not None for n in sample) >= 0.9 * len(sample)


class PeoplePhotos:
    """Every photo below a folder or zip, or of a .rec file: what the face collections have in common.

    `people` is the number of identities; `claimed` the number that `property` says, where it is there.
    """

    variant: str

    def __init__(self, path: Path) -> None:
        file = _record_file(path)
        self.packed = file is not None
        self._photos = _PackedPhotos(file) if file else _FolderPhotos(path)
        self.dropped = self._photos.dropped
        self.people = len({r.identity for r in self.records()} - {None})
        self.claimed = _property(file.with_name(PROPERTY)) if file else None
        self.notes: list[str] = []
        if self.packed:
            self.notes.append(
                ".rec files hold 112 px ArcFace crops, much tighter than the crops made here: enlarged, with less of "
                "forehead and chin than other photos in the same corpus"
            )
            if self.claimed not in (None, self.people):
                self.notes.append(f"'{PROPERTY}' says {self.claimed:,} people, the labels name {self.people:,}")

    def counts(self) -> list[Count]:
        """See `Source.counts`; nothing is published unless a subclass says so."""
        return []

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
        """Refuse photos in files of another layout than `layout`, in words, whose names are found by `pattern`."""
        other = next((r.path for r in self.records() if not pattern.search(r.path)), None)
        if other:
            raise SsferError(
                f"expected every photo of {path} at {layout}, found '{other}'; move it, or use 'kind: identities', "
                "which takes any folders"
            )


class IdentitySource(PeoplePhotos):
    """Photos of people; the identity is the name of the folder a photo lies in (none directly below the path)."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.variant = "insightface .rec file" if self.packed else "photos in one folder per person"
        self._complete_lfw = False
        if self.packed:
            self._look_packed(self.claimed or self.people)
        elif self.people <= _LFW_PEOPLE and all(_LFW_NAME.search(r.path) for r in self.records()):
            self._complete_lfw = self.people >= _LFW_LEAST
            self.variant = "LFW" if self._complete_lfw else "photos named as in LFW"
            if not self._complete_lfw:
                self.notes.append(
                    f"looks like a part of LFW: {len(self.records()):,} of {_LFW_IMAGES:,} photos, {self.people:,} of "
                    f"{_LFW_PEOPLE:,} people"
                )

    def counts(self) -> list[Count]:
        """LFW's numbers where nearly all of LFW is there."""
        if not self._complete_lfw:
            return []
        return [
            Count("all", "images", _LFW_IMAGES, len(self.records())),
            Count("all", "identities", _LFW_PEOPLE, self.people),
        ]

    def _look_packed(self, people: int) -> None:
        if people in _MS1M_PEOPLE:
            self.notes.append(
                f"{people:,} people: looks like MS-Celeb-1M (MS1MV2 is faces_emore), which Microsoft has withdrawn; "
                "better not used"
            )
        if people in _WEBFACE_PEOPLE:
            self.notes.append(f"{people:,} people: looks like CASIA-WebFace; 'kind: casia_webface' states its terms")


class _FolderPhotos(PhotoArchive):
    """Photos as files."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
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
        return self.__dict__ | {"_records": None}  # millions; made anew where they are asked for


def _key(record: RawRecord) -> int:
    return int(PurePosixPath(record.path).stem)


def _record_file(path: Path) -> Path | None:
    """Return the .rec file that `path` is or holds, in it or one folder below."""
    if path.is_file():
        return path if path.suffix == ".rec" else None
    found = [path / RECORDS] if (path / RECORDS).exists() else sorted(path.glob(f"*/{RECORDS}"))
    if len(found) > 1:
        raise SsferError(f"expected one {RECORDS} in {path}, found {len(found)}; make each a source of its own")
    return found[0] if found else None


def _property(path: Path) -> int | None:
    """Return the number of people that the file says, None where there is no file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        text = file.read(100).decode("ascii", "replace").strip()
    if not re.fullmatch(r"\d{1,9},\d{1,5},\d{1,5}", text):
        raise SsferError(f"expected 'people,height,width' in {path}, found '{text[:40]}'; copy the file again")
    return int(text.split(",")[0])
