"""What a data source is: a list of records in a fixed order, and a way to read each one's bytes.

A source is opened once per stage and again in every worker process (it must be picklable); it never writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class FileTooLarge(OSError):
    """One file is larger than any photo; the caller gives it a status instead of reading it."""


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One input image as its data set describes it.

    `path` is relative to the source, POSIX separators, unique. `label` is a canonical name (ssfer.core.labels) or None,
    `usage` one of manifest.USAGES, `truth` JSON of ground truth where it exists. `face` is the box (x1, y1, x2, y2) of
    the face that the label belongs to, in pixels of the upright image, where the data set gives one.
    """

    path: str
    label: str | None = None
    usage: str = "none"
    identity: str | None = None
    votes: tuple[int, ...] | None = None
    truth: str | None = None
    face: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Count:
    """A number that is published for this variant of a data set, beside what is here.

    `part` is a usage or "all"; `name` a class, "images" or "identities".
    """

    part: str
    name: str
    expected: int
    found: int


class Source(Protocol):
    """One data set, read-only."""

    variant: str  # which of the data set's forms this is, for people: "RAF-DB basic, aligned images"

    @property
    def dropped(self) -> Mapping[str, int]:
        """Rows the data set's own rules leave out, by reason."""
        ...

    def counts(self) -> Sequence[Count]:
        """Return what is published about this variant; empty when nothing is."""
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


def class_counts(records: Sequence[RawRecord], published: Mapping[str, Mapping[str, int]]) -> list[Count]:
    """Return published class counts {usage: {class: n}} beside those of `records`."""
    found = Counter((record.usage, record.label) for record in records)
    return [
        Count(usage, name, expected, found[usage, name])
        for usage, classes in published.items()
        for name, expected in classes.items()
    ]


def count_table(counts: Sequence[Count]) -> str:
    """Return an expected/found table of plain text, one line per count; the last column is the difference."""
    rows = [("part", "name", "expected", "found", "")]
    for c in counts:
        difference = f"{c.found - c.expected:+,}" if c.found != c.expected else ""
        rows.append((c.part, c.name, f"{c.expected:,}", f"{c.found:,}", difference))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    )
    return "\n".join("  ".join(["", *line]).rstrip() for line in lines)
