"""Base classes of importers whose every photo is one file of a folder or zip."""

from collections import Counter
from pathlib import Path, PurePosixPath

from ssfer.core.images import EXTENSIONS
from ssfer.datasets.base import RawRecord, Source, SourceSettings
from ssfer.datasets.shared.archives import Archive, open_archive


class ArchiveSource(Source):
    """Reads files of an archive; a subclass sets the attributes. A record's file is `_place` + its path."""

    dropped: Counter[str]
    _archive: Archive
    _records: list[RawRecord]
    _place = ""

    def records(self) -> list[RawRecord]:
        """See `Source.records`."""
        return self._records

    def read(self, record: RawRecord) -> bytes:
        """See `Source.read`."""
        return self._archive.read(self._place + record.path)

    def stamp(self, record: RawRecord) -> str:
        """See `Source.stamp`."""
        return self._archive.stamp(self._place + record.path)


class PhotoArchive(ArchiveSource):
    """Finds the photos and counts the other files; a subclass turns the photos into `_records`."""

    def __init__(self, path: Path, settings: SourceSettings) -> None:
        self._archive = open_archive(path)
        names = [PurePosixPath(name) for name in self._archive.names()]
        self._photos = [name for name in names if name.suffix.lower() in EXTENSIONS]
        self.dropped = Counter({"not_an_image": len(names) - len(self._photos)})
