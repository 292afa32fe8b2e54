"""What sources share whose every photo is one file of a folder or zip."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

from ssfer.images import EXTENSIONS
from ssfer.sources.archives import open_archive
from ssfer.sources.base import Count, RawRecord


class PhotoArchive:
    """Finds the photos, counts the other files, reads by record; a subclass turns the photos into `_records`."""

    variant: str
    _records: list[RawRecord]

    def __init__(self, path: Path) -> None:
        self._archive = open_archive(path)
        names = [PurePosixPath(name) for name in self._archive.names()]
        self._photos = [name for name in names if name.suffix.lower() in EXTENSIONS]
        self.dropped = Counter({"not_an_image": len(names) - len(self._photos)})

    def counts(self) -> list[Count]:
        """See `Source.counts`; nothing is published unless a subclass says so."""
        return []

    def records(self) -> list[RawRecord]:
        """See `Source.records`."""
        return self._records

    def read(self, record: RawRecord) -> bytes:
        """See `Source.read`."""
        return self._archive.read(record.path)

    def stamp(self, record: RawRecord) -> str:
        """See `Source.stamp`."""
        return self._archive.stamp(record.path)
