"""The interface of importers: a list of records in a fixed order, the bytes of each record, and the settings."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from ssfer.core.settings import Positive, Section


class FileTooLarge(OSError):
    """A file is larger than any photo; the caller gives it a status instead of reading it."""


class FileMissing(OSError):
    """A file that the data set lists is missing; the caller gives it a status."""


# Default of data.max_missing: largest share of the listed files that may be missing.
MAX_MISSING = 0.05


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One input image as its data set describes it.

    `path` is relative to the source, POSIX separators, unique; of photos with several faces it ends in the face's box
    (`ssfer.formats.face_paths`). `label` is a canonical name (`ssfer.core.labels`) or None, `usage` one of
    `ssfer.formats.manifest.USAGES`, `truth` JSON of ground truth or None. `face` is the box (x1, y1, x2, y2) of the
    face that the label belongs to, in pixels of the upright image; None if the data set gives no box.
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
    """A published number about this variant of a data set, and the number found.

    `part` is a usage or "all"; `name` a class, "images" or "identities".
    """

    part: str
    name: str
    expected: int
    found: int


class SourceSettings(Section):
    """One entry of `data.sources`: the keys of every data set; an importer's `Settings` adds its own."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=100, description="Name of its folder below data/faces."
    )
    kind: str = Field(description="Importer: a kind of data set, or your own as ./file.py:Name.")
    path: str = Field(description="Folder, zip or table, relative to data/raw/<data.raw>.")
    labeled: bool = Field(False, description="Whether its labels are used.")
    align: Literal["similarity", "resize"] = Field(
        description="similarity: detect, align by five points | resize: already aligned crops."
    )
    corpus: bool = Field(True, description="Its training images feed the pretraining corpus.")
    corpus_max: Positive | None = Field(
        None, description="Most of its images in the corpus, drawn with corpus.seed; null: all."
    )
    corpus_max_per_identity: Positive | None = Field(None, description="The same per person.")
    import_max: Positive | None = Field(
        None, description="Most of its images that are imported, drawn by a hash of their names; null: all."
    )
    import_max_per_identity: Positive | None = Field(None, description="The same per person.")
    counts: Literal["published", "any"] = Field(
        "published", description="published: refuse another number of images than the published one | any: accept it."
    )
    optional: bool = Field(
        False, description="true: if it is absent, the run continues without it; for unlabeled sources only."
    )


class Source(ABC):
    """One data set, read-only: one file in `ssfer.datasets` each, named as its `kind` in params.yaml.

    It is opened once per stage and pickled into every worker process. `Settings` adds the keys of this kind.

    Class attributes:
        title: name or description of the data set.
        terms: its terms of use, in sentences.
        rank: place in the order of recognition; importers that accept almost anything come last.

    Attributes:
        variant: which form of the data set this is, for messages: "RAF-DB basic, aligned images".
        dropped: number of files or rows that the data set's own rules leave out, by reason.
        notes: remarks for users of the data, in sentences.
        missing: paths of records whose files are missing.
    """

    class Settings(SourceSettings):
        """Entry of data.sources; a kind with keys of its own has another one."""

    title: ClassVar[str]
    terms: ClassVar[str]
    rank: ClassVar[int] = 90

    variant: str
    dropped: Mapping[str, int]
    notes: Sequence[str] = ()
    missing: Sequence[str] = ()

    @abstractmethod
    def __init__(self, path: Path, settings: Any) -> None:
        """List the records.

        Args:
            path: the data set's file or folder, which exists.
            settings: an instance of the class's `Settings`.

        Raises:
            SsferError: the data does not have the layout of its kind, is incomplete or damaged.
        """

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """Return whether a path is of this kind, by the sorted POSIX names of the files below it.

        One outer folder is possible; a path that is a plain file gives its own name.
        """
        return False

    @classmethod
    def suggest(cls, path: Path, settings: Any) -> Any:
        """Return settings that fit the files at a path; `ssfer doctor` and `ssfer init` use them.

        Args:
            path: the data set's file or folder.
            settings: an instance of `Settings`, which is returned if nothing better is known.
        """
        return settings

    def counts(self) -> Sequence[Count]:
        """Return the published numbers of this variant; empty if there are none."""
        return []

    @abstractmethod
    def records(self) -> Sequence[RawRecord]:
        """Return all records, the same and in the same order every time."""

    @abstractmethod
    def read(self, record: RawRecord) -> bytes:
        """Return the bytes of one image; any exception means that this image cannot be read."""

    @abstractmethod
    def stamp(self, record: RawRecord) -> str:
        """Return something cheap that changes when the bytes change (size and CRC, size and time)."""


def class_counts(records: Sequence[RawRecord], published: Mapping[str, Mapping[str, int]]) -> list[Count]:
    """Return published class counts {usage: {class: n}} together with those of `records`."""
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
