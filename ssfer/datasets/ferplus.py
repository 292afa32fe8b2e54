"""FERPlus: ten votes for each image of FER2013, and four rules in use that make labels of them.

Images come from an export by its authors' script (FER2013Train, FER2013Valid, FER2013Test, each a folder or a zip of
48x48 gray PNG files, any of them; a path to one part is enough) or, without an export, from `fer2013.csv`. Labels come
from one of three files (`label_source`): each part's headerless `label.csv` (name, "(0, 0, 48, 48)", ten votes),
`fer2013new.csv` (all parts; its rows are in the order of fer2013.csv), or `fer2013.csv` itself (the labels of FER2013
before FERPlus). The first two do not agree: they list different images and partly different votes. `rule` turns votes
into a class (ssfer.datasets.shared.ferplus_rules); the default, `plurality`, is the one of SSFER (specification 2.2).
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from ssfer.core.errors import SsferError
from ssfer.core.labels import EXPRESSIONS
from ssfer.datasets.base import Count, RawRecord, Source, SourceSettings
from ssfer.datasets.shared.fer2013_pixels import PIXEL_FILES, PixelRow, PixelTable
from ssfer.datasets.shared.ferplus_files import LABELS, NEW_LABELS, PARTS, Export, VoteRow, find_file, read_new_labels
from ssfer.datasets.shared.ferplus_rules import RULES, is_tie
from ssfer.datasets.shared.label_files import refuse_most_missing

ORIGINAL = "fer2013.csv"
# Images per part that a rule leaves of the label files as published, counted on them. Valid and Train of label.csv were
# counted for every rule; its Test only for the authors' own.
PUBLISHED: Mapping[tuple[str, str], Mapping[str, int]] = {
    (LABELS, "plurality"): {"FER2013Train": 28_385, "FER2013Valid": 3_555},
    (LABELS, "majority"): {"FER2013Train": 25_045, "FER2013Valid": 3_191, "FER2013Test": 3_137},
    (LABELS, "argmax8"): {"FER2013Train": 28_556, "FER2013Valid": 3_579},
    (LABELS, "raw_majority"): {"FER2013Train": 21_823, "FER2013Valid": 2_866},
    (NEW_LABELS, "plurality"): {"FER2013Train": 28_389, "FER2013Valid": 3_553, "FER2013Test": 3_546},
    (NEW_LABELS, "majority"): {"FER2013Train": 25_060, "FER2013Valid": 3_199, "FER2013Test": 3_153},
    (NEW_LABELS, "argmax8"): {"FER2013Train": 28_559, "FER2013Valid": 3_579, "FER2013Test": 3_573},
    (NEW_LABELS, "raw_majority"): {"FER2013Train": 21_811, "FER2013Valid": 2_862, "FER2013Test": 2_729},
    (ORIGINAL, ""): {"FER2013Train": 28_709, "FER2013Valid": 3_589, "FER2013Test": 3_589},
}


_EXPORT_IMAGE = re.compile(r"fer\d{7}\.png")


class FerPlusSource(Source):
    """Images of the parts that are there, with the labels of one file by one rule; parts in `test` are for testing.

    Other parts than FER2013Train that are not in `test` have usage valid. Record paths are <part>/<image name> whatever
    the images come from; rows of fer2013.csv with its own labels are <part>/row<number from 0>.png.

    Raises:
        SsferError: no part, no label file, an image that label.csv lists is missing, a damaged label file.
    """

    title = "FERPlus"
    terms = (
        "FER2013 photographs collected from the web, with FER+ votes (votes: MIT license; the photographs carry no "
        "license of their own and are not passed on here)."
    )
    rank = 30

    class Settings(SourceSettings):
        """Keys of this kind."""

        label_source: Literal["label.csv", "fer2013new.csv", "fer2013.csv"] = Field(
            "label.csv", description="File with the labels; they list different images and partly different votes."
        )
        rule: Literal["plurality", "majority", "argmax8", "raw_majority"] = Field(
            "plurality", description="How votes make a class: ssfer.datasets.shared.ferplus_rules."
        )
        test: tuple[Literal["FER2013Valid", "FER2013Test"], ...] = Field(
            ("FER2013Valid", "FER2013Test"), min_length=1, description="Parts that test."
        )

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """See `Source.recognize`: any part of an export, as folder, zip or its bare content, or FER2013's pixels."""
        if any(re.search(rf"(^|/){part}(/|\.zip$)", n) for n in names for part in PARTS):
            return True
        files = {PurePosixPath(n).name for n in names}
        return bool(files & {*PIXEL_FILES, NEW_LABELS}) or (
            LABELS in names and any(map(_EXPORT_IMAGE.fullmatch, names))
        )

    def __init__(self, path: Path, settings: Settings) -> None:
        label_source, rule = settings.label_source, settings.rule
        self.dropped: Counter[str] = Counter()
        self.notes: list[str] = []
        self.missing: list[str] = []
        self._path, self._test = path, settings.test
        self._export = Export({} if label_source == ORIGINAL else Export.find(path))
        self._pixels: PixelTable | None = None
        self._pixel_rows: dict[str, PixelRow] = {}  # record path -> row of the pixel file
        self._published = PUBLISHED[label_source, "" if label_source == ORIGINAL else rule]
        if label_source == ORIGINAL:
            self._records = self._original()
            self.variant = f"FER2013 ({self._pixel_file()}) with its own labels"
        else:
            rows = self._label_rows() if label_source == LABELS else self._new_label_rows()
            self._records = list(self._labeled(rows, rule))
            self.missing = sorted({r.path for r in self._records}.intersection(self.missing))
            images = f"FER2013 ({self._pixel_file()})" if self._pixels else "FERPlus export"
            self.variant = f"{images}, labels of {label_source} by {rule}"

    def counts(self) -> list[Count]:
        """See `Source.counts`: images per usage; nothing for a usage of which one part has no published number."""
        found = Counter(record.path.partition("/")[0] for record in self._records)
        by_usage: dict[str, list[str]] = {}
        for part in self._parts():
            by_usage.setdefault(self._usage(part), []).append(part)
        return [
            Count(usage, "images", sum(self._published[p] for p in parts), sum(found[p] for p in parts))
            for usage, parts in by_usage.items()
            if all(p in self._published for p in parts)
        ]

    def records(self) -> list[RawRecord]:
        """See `Source.records`."""
        return self._records

    def read(self, record: RawRecord) -> bytes:
        """See `Source.read`."""
        if self._pixels:
            return self._pixels.read(self._pixel_rows[record.path])
        return self._export.read(record.path)

    def stamp(self, record: RawRecord) -> str:
        """See `Source.stamp`."""
        if self._pixels:
            return self._pixels.stamp(self._pixel_rows[record.path])
        return self._export.stamp(record.path)

    def _usage(self, part: str) -> str:
        return "train" if part == PARTS[0] else "test" if part in self._test else "valid"

    def _parts(self) -> list[str]:
        here = {row.part for row in self._pixels.rows} if self._pixels else self._export.parts
        return [part for part in PARTS if part in here]

    def _pixel_file(self) -> str:
        return self._pixels.path.name if self._pixels else ""

    def _original(self) -> list[RawRecord]:
        self._pixels = self._open_pixels()
        records = []
        for number, row in enumerate(self._pixels.rows):
            record = RawRecord(f"{row.part}/row{number:05d}.png", label=row.label, usage=self._usage(row.part))
            self._pixel_rows[record.path] = row
            records.append(record)
        return records

    def _open_pixels(self) -> PixelTable:
        return PixelTable(find_file(self._path, PIXEL_FILES, "the pixels of FER2013"))

    def _label_rows(self) -> Iterator[VoteRow]:
        if not self._export.parts:
            raise SsferError(
                f"expected {PARTS[0]} (a folder or {PARTS[0]}.zip) in {self._path}, found no part of FERPlus; copy it "
                f"there (the parts are {', '.join(PARTS)}), or set 'label_source: {NEW_LABELS}' (pixels in fer2013.csv)"
            )
        for part in self._export.parts:
            rows = self._export.label_rows(part)
            named = [row.name for row in rows if row.name]
            absent = [f"{part}/{name}" for name in named if not self._export.has(part, name)]
            refuse_most_missing(self._export.labels_of(part), len(rows), absent)
            self.missing += absent
            yield from rows

    def _new_label_rows(self) -> Iterator[VoteRow]:
        rows = read_new_labels(self._path)
        if self._export.has_images():
            for part in self._export.parts:
                for row in (r for r in rows if r.part == part):
                    # The authors' label.csv lists three images less; so do exports made by it.
                    if row.name and not self._export.has(part, row.name):
                        self.dropped["not_exported"] += 1
                    else:
                        yield row
            return
        self._pixels = self._open_pixels()
        if [r.part for r in rows] != [r.part for r in self._pixels.rows]:
            raise SsferError(
                f"expected the same images in the same order in {NEW_LABELS} and {self._pixels.path}, found "
                f"{len(rows)} and {len(self._pixels.rows)} rows that differ in usage; take both files as published"
            )
        self._pixel_rows = {f"{r.part}/{r.name}": p for r, p in zip(rows, self._pixels.rows, strict=True)}
        yield from (r for part in PARTS for r in rows if r.part == part)

    def _labeled(self, rows: Iterator[VoteRow], rule: str) -> Iterator[RawRecord]:
        seen: set[str] = set()
        ties = 0
        for row in rows:
            path = f"{row.part}/{row.name}"
            if row.name and path in seen:
                raise SsferError(f"{row.where}: image '{row.name}' is listed twice, expected once")
            seen.add(path)
            winner = RULES[rule](row.votes)
            if not row.name or winner not in EXPRESSIONS:
                self.dropped["no_name" if not row.name else winner] += 1
                continue
            ties += is_tie(row.votes, rule)
            yield RawRecord(path, label=winner, usage=self._usage(row.part), votes=row.votes)
        if ties:
            self.notes.append(f"{ties:,} images have several classes with the most votes; FERPlus's first one is taken")
