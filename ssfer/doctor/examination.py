"""Open the data sets, read every image and find copies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssfer.copies.thumbnails import Thumbnails, expected_maps, photo_maps
from ssfer.core.process import available_cpus
from ssfer.datasets.base import RawRecord, Source
from ssfer.datasets.registry import absent_sources
from ssfer.datasets.settings import DataSettings
from ssfer.doctor.changed import changed_pairs
from ssfer.doctor.data_sets import Opened, Place, identify, open_place, short_names
from ssfer.doctor.overlap import EqualImages, Overlap
from ssfer.doctor.scan import read_photo, scan
from ssfer.doctor.stored_crops import cut_out, read_crop, rows_of_crops
from ssfer.formats.manifest import USAGES


@dataclass(frozen=True)
class Settings:
    """Options of `ssfer doctor`; see its --help."""

    kind: str | None = None
    scan: bool = True
    near_bits: int = 8
    correlation: float = 0.85
    workers: int | None = None  # None: one per CPU
    examples: int = 3
    faces: int = 5_000  # most images in which faces are detected
    labels: Mapping[str, str | None] | None = None  # word -> class name


@dataclass
class DataSet:
    """A data set and its scanned rows."""

    opened: Opened
    source: Source
    records: Sequence[RawRecord]
    first: int  # its first row among all data sets
    rows: pa.Table | None = None  # see `ssfer.doctor.scan.ROWS`; None: not scanned

    @property
    def name(self) -> str:
        """The name in this report."""
        return self.opened.name

    @cached_property
    def usage(self) -> np.ndarray:
        """(n,) int8, index into manifest.USAGES."""
        return np.array([USAGES.index(r.usage) for r in self.records], np.int8)

    def status(self) -> np.ndarray | None:
        """(n,) str, one of manifest.STATUSES; None: not scanned."""
        return None if self.rows is None else np.array(self.rows.column("status").to_pylist(), dtype=object)

    def usages(self) -> list[str]:
        """Return the usages that have images."""
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
        """Return whether models train on it: training images, and those without a usage, which are for the corpus."""
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
    absent: list[str] = field(default_factory=list)  # optional sources that are not there
    parts: list[Part] = field(default_factory=list)
    shared: list[Shared] = field(default_factory=list)
    equal: EqualImages | None = None
    unaligned: int = 0  # images in which faces were not detected, because there are too many

    def data_set(self, row: int) -> DataSet:
        """Return the data set of a row."""
        return next(s for s in reversed(self.sets) if s.first <= row and len(s.records))

    def at(self, row: int) -> tuple[Source, RawRecord]:
        """Return the source and record of a row."""
        data_set = self.data_set(row)
        return data_set.source, data_set.records[row - data_set.first]


def examine(paths: Sequence[Path], settings: Settings) -> Examination:
    """Examine the data sets at `paths`.

    Raises:
        SsferError: a path is missing or not recognized, or a worker process was killed.
    """
    return _examine(*identify(paths, settings.kind), Examination(settings))


def examine_sources(data: DataSettings, root: Path, settings: Settings) -> Examination:
    """Examine the data sets that a project names.

    Args:
        data: the project's section `data`.
        root: folder that the paths of its sources are relative to.
        settings: options.

    Raises:
        SsferError: a worker process was killed.
    """
    absent = absent_sources(data.sources, root)
    here = [source for source in data.sources if source not in absent]
    result = Examination(settings, absent=[f"{source.name} ({root / source.path})" for source in absent])
    return _examine([Place(root / s.path, s.kind, settings=s) for s in here], [], result)


def _examine(places: Sequence[Place], unknown: list[Path], result: Examination) -> Examination:
    settings, result.unknown = result.settings, unknown
    first = 0
    for place, name in zip(places, short_names(places), strict=True):
        opened = open_place(place, name, settings.labels)
        if opened.source is None:
            result.failed.append(opened)
        else:
            result.sets.append(DataSet(opened, opened.source, opened.source.records(), first))
            first += len(result.sets[-1].records)
    if settings.scan and result.sets:
        thumbnails = Thumbnails(first, lambda rows: (read_crop(*result.at(row)) for row in rows.tolist()))
        for data_set in result.sets:
            data_set.rows = _rows(data_set, thumbnails, settings.workers or available_cpus())
        _find_copies(result, thumbnails)
    return result


def _rows(data_set: DataSet, thumbnails: Thumbnails, workers: int) -> pa.Table:
    place = data_set.opened.place
    rows = rows_of_crops(place.path) if place.kind == "rendered" else None
    if rows is None:
        rows = scan(data_set.source, data_set.records, thumbnails, data_set.first, workers, data_set.name)
    return rows


def _link_changed(result: Examination, equal: EqualImages, part: np.ndarray, is_crop: np.ndarray) -> None:
    """Link training photos to the evaluated photos of which they are mirrored, rotated or cropped copies."""
    first = (equal.picture == np.arange(len(part))) & ~is_crop
    training, evaluated = (
        np.flatnonzero(first & np.isin(part, [p.number for p in result.parts if p.trains == trains])).tolist()
        for trains in (True, False)
    )
    if not training or not evaluated:
        return
    if len(training) + len(evaluated) > result.settings.faces:
        result.unaligned = len(training) + len(evaluated)
        return
    trained, tested = ([result.at(row) for row in rows] for rows in (training, evaluated))
    settings = result.settings
    pairs = changed_pairs(trained, tested, settings.correlation, settings.workers or available_cpus())
    equal.link([(training[i], evaluated[j]) for i, j in pairs])


def _find_copies(result: Examination, thumbnails: Thumbnails) -> None:
    rows = pa.concat_tables([s.rows for s in result.sets])
    part = np.full(rows.num_rows, -1, np.int16)
    for data_set in result.sets:
        for usage in data_set.usages():
            members = np.flatnonzero(data_set.usage == USAGES.index(usage)) + data_set.first
            part[members] = len(result.parts)
            result.parts.append(Part(len(result.parts), data_set, usage, len(members)))
    maps, sizes = photo_maps(rows)
    is_crop = pc.is_valid(rows.column("matrix")).to_numpy()

    def compare(i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pair = np.stack([i, j])
        seen, seen_maps = np.stack([thumbnails.read(i), thumbnails.read(j)]), maps[pair]
        for k in np.flatnonzero(is_crop[i] != is_crop[j]).tolist():
            whole, crop = (0, 1) if is_crop[j[k]] else (1, 0)
            photo = read_photo(*result.at(int(pair[whole, k])))
            if photo is not None:
                seen[whole, k], seen_maps[whole, k] = cut_out(photo, maps[pair[crop, k]], sizes[pair[crop, k]])
        return seen[0], seen[1], expected_maps(seen_maps[0], sizes[i], seen_maps[1], sizes[j])

    result.equal = equal = EqualImages(rows, part, compare, result.settings.near_bits, result.settings.correlation)
    _link_changed(result, equal, part, is_crop)
    for of in result.parts:
        for where in result.parts[of.number :]:
            images = equal.overlap(of.number, where.number)
            if images.total():
                there = images if of is where else equal.overlap(where.number, of.number)
                result.shared.append(Shared(of, where, images, there))
