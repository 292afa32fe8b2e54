"""The embedded data set of rendered faces (ssfer.rendered.generate): shards and manifest with ground truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssfer.datasets.base import Count, RawRecord
from ssfer.formats.manifest import MANIFEST_NAME, read_manifest
from ssfer.formats.shards import ShardReader

TITLE = "faces with a manifest and shards of this project"
TERMS = "rendered faces: CC0; faces of other data sets: the terms of those"


def recognize(names: Sequence[str]) -> bool:
    """A manifest and shards beside it."""
    return MANIFEST_NAME in names


class RenderedSource:
    """A folder with a manifest and its shards; ground truth travels on in the `truth` column."""

    variant = "manifest and shards"

    def __init__(self, path: Path) -> None:
        self.dropped: Counter[str] = Counter()
        self._path = path
        self._reader = ShardReader(path)
        columns = ["path", "label", "usage", "identity", "votes", "truth", "sha256", "shard", "offset", "size"]
        rows = read_manifest(path).select(columns).to_pylist()
        self._places = {row["path"]: (row["shard"], row["offset"], row["size"], row["sha256"]) for row in rows}
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

    def counts(self) -> list[Count]:
        return []

    def records(self) -> list[RawRecord]:
        return self._records

    def read(self, record: RawRecord) -> bytes:
        shard, offset, size, _ = self._places[record.path]
        return self._reader.read(shard, offset, size)

    def stamp(self, record: RawRecord) -> str:
        return ":".join(map(str, self._places[record.path]))

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self._path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]
