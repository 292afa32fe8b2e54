"""Photos of people, one folder per identity (LFW, CASIA-WebFace, VGGFace2), as a folder or a zip; no labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

from ssfer.errors import SsferError
from ssfer.images import EXTENSIONS
from ssfer.sources.archives import open_archive
from ssfer.sources.base import RawRecord


class IdentitySource:
    """Every image below the path; its identity is the name of the folder it lies in (none directly below the path)."""

    def __init__(self, path: Path) -> None:
        self._archive = open_archive(path)
        names = [PurePosixPath(name) for name in self._archive.names()]
        photos = [name for name in names if name.suffix.lower() in EXTENSIONS]
        self.dropped = Counter({"not_an_image": len(names) - len(photos)})
        self._records = [RawRecord(str(name), identity=name.parent.name or None) for name in photos]
        if not photos:
            raise SsferError(
                f"expected one folder of photos ({', '.join(EXTENSIONS)}) per person in {path}, found {len(names)} "
                "files and no photo among them"
            )

    def records(self) -> list[RawRecord]:
        return self._records

    def read(self, record: RawRecord) -> bytes:
        return self._archive.read(record.path)

    def stamp(self, record: RawRecord) -> str:
        return self._archive.stamp(record.path)
