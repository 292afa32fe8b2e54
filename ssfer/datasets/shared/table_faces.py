"""Rows of a table as records: one per photo, or one per face where rows have boxes."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from PIL import Image

from ssfer.core.errors import SsferError
from ssfer.core.images import FORMATS
from ssfer.datasets.base import RawRecord
from ssfer.datasets.shared.archives import Archive
from ssfer.datasets.shared.boxes import format_by_photos, four_numbers
from ssfer.formats.face_paths import face_path

_SAMPLE = 200  # rows whose photos are opened to find the format of their boxes


class Row(NamedTuple):
    """A record and where it was read."""

    table: str
    line: int
    record: RawRecord


def one_per_face(rows: Sequence[Row]) -> tuple[list[RawRecord], dict[str, str]]:
    """Return the records with unique paths, and the photo of each record that is one of several faces.

    Raises:
        SsferError: a photo occurs twice and not every of its rows has a box.
    """
    number = Counter(row.record.path for row in rows)
    seen: dict[str, Row] = {}
    photo: dict[str, str] = {}
    for row in rows:
        record = row.record
        name = record.path
        if number[name] > 1 and record.face is not None:
            record = replace(record, path=face_path(name, record.face))
            photo[record.path] = name
        if (first := seen.get(record.path)) is not None:
            lines = f"lines {first.line} and {row.line}"
            if first.table != row.table:
                lines = f"line {first.line} and line {row.line} of {row.table}"
            other = "" if first.record.label == record.label else f", as {first.record.label} and as {record.label}"
            raise SsferError(
                f"{first.table}: expected '{record.path}' once, found it in {lines}{other}; remove one of the rows, "
                "or, if they are about several faces, give the boxes in columns and name these in box_columns"
            )
        seen[record.path] = row._replace(record=record)
    half = next((name for name in photo.values() if name in seen), None)
    if half:
        raise SsferError(
            f"{seen[half].table}: photo '{half}' has several rows, and that in line {seen[half].line} has no box, "
            "which could be about any of its faces; add the box, or remove the row"
        )
    return [row.record for row in seen.values()], photo


def format_of(archive: Archive, cells: Sequence[tuple[str, str]]) -> str:
    """Return the format of boxes with all numbers in one cell, if the sizes of some photos leave one only; else "".

    Args:
        archive: holds the photos.
        cells: name of a photo and its box as it is written.
    """
    numbers, sizes = [], []
    for name, written in cells[:: max(1, len(cells) // _SAMPLE)]:
        box = four_numbers([written])
        try:
            with Image.open(io.BytesIO(archive.read(name)), formats=FORMATS) as photo:
                size = photo.size
        except Exception:  # a damaged photo says nothing about the others
            continue
        if box is not None:
            numbers.append(box)
            sizes.append(size)
    return format_by_photos(numbers, sizes) or ""
