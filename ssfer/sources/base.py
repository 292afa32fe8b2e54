"""What a data source is: a list of records in a fixed order, and a way to read each one's bytes.

A source is opened once per stage and again in every worker process (it must be picklable); it never writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ssfer.errors import SsferError
from ssfer.params import SourceParams


class FileTooLarge(OSError):
    """One file is larger than any photo; the caller gives it a status instead of reading it."""


@dataclass(frozen=True)
class RawRecord:
    """One input image as its data set describes it.

    `path` is relative to the source, POSIX separators, unique. `label` is a canonical name (ssfer.labels) or None,
    `usage` one of manifest.USAGES, `truth` JSON of ground truth where it exists.
    """

    path: str
    label: str | None = None
    usage: str = "none"
    identity: str | None = None
    votes: tuple[int, ...] | None = None
    truth: str | None = None


class Source(Protocol):
    """One data set, read-only."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """Rows the data set's own rules leave out, by reason."""
        ...

    def records(self) -> Sequence[RawRecord]:
        """Return all records, the same and in the same order every time."""
        ...

    def read(self, record: RawRecord) -> bytes:
        """Return the bytes of one image; any exception means that this image cannot be read."""
        ...

    def stamp(self, record: RawRecord) -> str:
        """Return something cheap that changes when the bytes change (size and CRC, size and time)."""
        ...


def open_source(params: SourceParams, root: Path) -> Source:
    """Open the source described by `params` below `root` (data/raw/<data.raw>).

    Raises:
        SsferError: the data is missing or is not laid out as its kind demands.
    """
    from ssfer.sources.class_folders import ClassFolderSource
    from ssfer.sources.ferplus import FerPlusSource
    from ssfer.sources.identities import IdentitySource
    from ssfer.sources.rendered import RenderedSource

    kinds: dict[str, Callable[[Path], Source]] = {
        "rendered": RenderedSource,
        "ferplus": FerPlusSource,
        "identities": IdentitySource,
        "class_folders": ClassFolderSource,
    }
    path = root / params.path
    if not path.exists():
        raise SsferError(
            f"source '{params.name}' expects its data at {path}, found nothing there; put the data set there, or "
            "change its 'path' in params.yaml"
        )
    return kinds[params.kind](path)
