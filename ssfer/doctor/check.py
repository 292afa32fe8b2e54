"""The examination: open the data sets, read every image, find copies, judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ssfer.copies.crops import add_pictures, columns_of_crops
from ssfer.copies.report import Copies, Overlap, join
from ssfer.copies.scan import OK, Columns, Pictures, cpus, read_photo, scan
from ssfer.datasets.base import RawRecord, Source
from ssfer.doctor.identify import Opened, identify, open_place, short_names
from ssfer.formats.manifest import USAGES


@dataclass(frozen=True)
class Settings:
    """How to look; see `ssfer doctor --help`."""

    kind: str | None = None
    scan: bool = True
    near_bits: int = 8
    correlation: float = 0.85
    workers: int | None = None  # None: one per CPU
    examples: int = 3


@dataclass
class DataSet:
    """One data set and what was seen of it."""

    opened: Opened
    source: Source
    records: Sequence[RawRecord]
    columns: Columns | None = None  # None: not scanned
    first: int = 0  # its first row among all data sets

    @property
    def name(self) -> str:
        return self.opened.name

    @cached_property
    def usage(self) -> np.ndarray:
        """(n,) int8, index into manifest.USAGES."""
        return np.array([USAGES.index(r.usage) for r in self.records], np.int8)

    def usages(self) -> list[str]:
        """The usages that have images."""
        return [usage for i, usage in enumerate(USAGES) if (self.usage == i).any()]


@dataclass(frozen=True)
class Part:
    """One usage of one data set."""

    number: int
    data_set: DataSet
    usage: str
    images: int

    @property
    def trains(self) -> bool:
        """Whether a model may see it: training images, and those without a usage, which are for the corpus."""
        return self.usage in ("train", "none")


@dataclass(frozen=True)
class Shared:
    """Images that are in two parts, or (the same part twice) that repeat an earlier one."""

    of: Part
    where: Part
    images: Overlap  # of the part `of`
    there: Overlap  # of the part `where`


@dataclass
class Examination:
    """Everything that was found; `ssfer.doctor.findings` judges it."""

    settings: Settings
    sets: list[DataSet] = field(default_factory=list)
    failed: list[Opened] = field(default_factory=list)
    unknown: list[Path] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    shared: list[Shared] = field(default_factory=list)
    copies: Copies | None = None

    def at(self, row: int) -> tuple[DataSet, RawRecord]:
        """Return the data set and record of a row."""
        data_set = next(s for s in reversed(self.sets) if s.first <= row and len(s.records))
        return data_set, data_set.records[row - data_set.first]


def examine(paths: Sequence[Path], settings: Settings) -> Examination:
    """Look at the data sets at `paths`.

    Raises:
        SsferError: a path is missing or not recognized, or a worker process was killed.
    """
    places, unknown = identify(paths, settings.kind)
    result = Examination(settings, unknown=unknown)
    for place, name in zip(places, short_names(places), strict=True):
        opened = open_place(place, name)
        if opened.source is None:
            result.failed.append(opened)
        else:
            result.sets.append(DataSet(opened, opened.source, opened.source.records()))
    if settings.scan and result.sets:
        pictures = Pictures()
        for data_set in result.sets:
            _scan(data_set, pictures, settings)
        _compare(result, pictures)
    return result


def _scan(data_set: DataSet, pictures: Pictures, settings: Settings) -> None:
    records = data_set.records
    data_set.first = pictures.add_rows(len(records))
    if data_set.opened.place.kind == "rendered":
        data_set.columns = columns_of_crops(data_set.opened.place.path)
    if data_set.columns is None:
        workers = settings.workers or cpus()
        data_set.columns = scan(data_set.source, records, pictures, data_set.first, workers, data_set.name)


def _compare(result: Examination, pictures: Pictures) -> None:
    columns = join([s.columns for s in result.sets if s.columns is not None])
    part = np.full(len(columns.status), -1, np.int16)
    for data_set in result.sets:
        for usage in data_set.usages():
            rows = np.flatnonzero(data_set.usage == USAGES.index(usage)) + data_set.first
            part[rows] = len(result.parts)
            result.parts.append(Part(len(result.parts), data_set, usage, len(rows)))
    columns.pixels[columns.status != OK] = 0
    result.copies = copies = Copies(columns, part)
    seen = np.zeros(len(part), dtype=bool)

    def load(rows: np.ndarray) -> None:
        """Read crops of this project's folders when they are first asked for."""
        for s in result.sets:
            if s.columns is not None and s.columns.matrix is not None:
                mine = rows[(rows >= s.first) & (rows < s.first + len(s.records)) & ~seen[rows]]
                add_pictures(s.source, s.records, mine - s.first, s.first, pictures)
        seen[rows] = True

    def photo(row: int) -> Image.Image | None:
        data_set, record = result.at(row)
        return read_photo(data_set.source, record)

    copies.find_near(columns, pictures, result.settings.near_bits, result.settings.correlation, load, photo)
    for of in result.parts:
        for where in result.parts[of.number :]:
            images = copies.overlap(of.number, where.number)
            if images.total():
                there = images if of is where else copies.overlap(where.number, of.number)
                result.shared.append(Shared(of, where, images, there))
