"""Any data set as a csv file with a header and one row per photo: the way in for labels that no layout fits.

The file is UTF-8, with or without a byte order mark. The separator is the one of comma, semicolon and tab that occurs
most in the header; fields may be quoted as spreadsheets do. Paths are relative to the folder or zip with the photos,
which lies in the table's folder or is it. A photo may have a row per face, each with the box of
its face. Labels are class names, upper or lower case; usual words for expressions
(happy, angry) are understood, and `labels` maps others, exactly as they are written. Numbers are never guessed. A row
without a label is an unlabeled photo.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from PIL import Image
from pydantic import Field, model_validator

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.images import EXTENSIONS
from ssfer.core.labels import class_name, codes_of, is_code
from ssfer.datasets.base import RawRecord, SourceSettings
from ssfer.datasets.shared.archives import open_archive
from ssfer.datasets.shared.boxes import FORMATS, box_columns, box_of, format_by_photos, four_numbers, refuse_shares
from ssfer.datasets.shared.label_files import refuse_most_missing
from ssfer.datasets.shared.parts import usages
from ssfer.datasets.shared.photo_archive import ArchiveSource
from ssfer.datasets.shared.table_rows import read_rows
from ssfer.datasets.shared.words import merged_words
from ssfer.formats.face_paths import face_path
from ssfer.formats.manifest import USAGES

_SAMPLE = 200  # rows whose photos are opened to learn what their boxes mean
# Names of columns, in lower case, that say what is in them.
_COLUMNS = {
    "path_column": ("path", "file", "filename", "file_name", "filepath", "image", "img", "image_path", "pth"),
    "label_column": ("label", "emotion", "expression", "class"),
    "usage_column": ("usage", "split", "part", "partition", "subset", "set"),
}


class TableSource(ArchiveSource):
    """The rows of the table, in its order.

    Without a usage column, rows with a label are for training and rows without one for the corpus only (usage "none").
    """

    notes: list[str]
    title = "table of photos"
    terms = "Photographs listed in a table, used under the terms of the user's own copy. Not passed on here."
    rank = 100

    class Settings(SourceSettings):
        """Keys of this kind."""

        images: str = Field(".", description="Folder or zip with the photos, relative to the table's folder.")
        path_column: str = Field("path", description="Column with the photos' paths.")
        label_column: str | None = Field("label", description="Column with the labels; null: none has one.")
        usage_column: str | None = Field(
            None,
            description="Column with train, valid, test or none, or usual words for them (PublicTest); "
            "null: labeled rows train, the others are none.",
        )
        identity_column: str | None = Field(None, description="Column with the person.")
        labels: dict[str, str | None] = Field(
            {}, description="Value in the label column -> class name, where they differ; null: its rows are left out."
        )
        box_columns: tuple[str, ...] | None = Field(
            None,
            description="Columns with the box of the row's face, in the order of box_format, or one with all four "
            "numbers; a photo may then have a row per face. null: none.",
        )
        box_format: Literal["xywh", "xyxy"] = Field(
            "xywh", description="Pixels of a box; xywh: left, top, width, height | xyxy: left, top, right, bottom."
        )

        @model_validator(mode="after")
        def _check(self) -> Self:
            if self.box_columns is not None and len(self.box_columns) not in (1, 4):
                raise ValueError(f"box_columns takes one column or four, found {len(self.box_columns)}")
            if self.box_columns is not None and self.align == "resize":
                raise ValueError("box_columns needs align: similarity, because resize takes whole photos")
            return self

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """See `Source.recognize`: a csv file itself; in a folder it may be anything."""
        return len(names) == 1 and "/" not in names[0] and names[0].lower().endswith((".csv", ".tsv"))

    @classmethod
    def suggest(cls, path: Path, settings: Settings) -> Settings:
        """See `Source.suggest`: columns whose names say what is in them; a usage column only if its words do, too."""
        try:
            header, rows = read_rows(path)
        except SsferError:
            return settings
        found: dict[str, Any] = {}
        for key, names in _COLUMNS.items():
            same = [column for column in header if column.lower() in names]
            if getattr(settings, key) not in header and len(same) == 1:
                found[key] = same[0]
        words = {cells[found["usage_column"]] for _, cells in rows} if "usage_column" in found else set()
        if words - usages(words)[0].keys():
            del found["usage_column"]
        suggested = settings.model_copy(update=found)
        columns, form = box_columns(header)
        form = form or (_format(path, suggested, rows, columns[0]) if columns else "")
        if form and settings.box_columns is None:
            return suggested.model_copy(update={"box_columns": columns, "box_format": form, "align": "similarity"})
        return suggested

    def __init__(self, path: Path, settings: Settings) -> None:
        boxes = settings.box_columns or ()
        single = (settings.path_column, settings.label_column, settings.usage_column, settings.identity_column)
        columns = [c for c in (*single, *boxes) if c is not None]
        header, rows = read_rows(path, columns)
        self.dropped: Counter[str] = Counter()
        self._records, self._photo = self._read_rows(path, settings, rows)
        if not self._records:
            raise SsferError(f"{path} has no row below its header, expected one per photo")
        self._open_photos(path, settings.images)
        self.variant = f"table with columns {', '.join(columns)}"
        if settings.label_column and (bare := sum(r.label is None for r in self._records)):
            self.notes.append(f"{bare:,} of {len(self._records):,} rows have no label")
        if not boxes and (unused := box_columns(header)[0]):
            self.notes.append(
                f"the boxes of faces in column{'s' if len(unused) > 1 else ''} {', '.join(unused)} are not used; name "
                f"them in the source's box_columns, and say in box_format whether they are {' or '.join(FORMATS)}"
            )

    def _read_rows(
        self, path: Path, settings: Settings, rows: Sequence[tuple[int, dict[str, str]]]
    ) -> tuple[list[RawRecord], dict[str, str]]:
        """Return the records and the photo of each that is one of several faces; set `notes` and `dropped`."""
        usage_column, identity_column = settings.usage_column, settings.identity_column
        labels = {raw: name if name is None else class_name(name) for raw, name in settings.labels.items()}
        parts, note = usages({cells[usage_column] for _, cells in rows} if usage_column else ())
        self.notes = [note] if note else []
        codes: Counter[str] = Counter()
        found: list[tuple[int, RawRecord]] = []
        for line, cells in rows:
            where = f"{path}, line {line}"
            name = _photo_name(cells[settings.path_column], where, settings.images)
            raw = cells[settings.label_column] if settings.label_column else ""
            raw = "" if raw.lower() == "nan" and raw not in labels else raw  # pandas writes it for nothing
            label = labels[raw] if raw in labels else class_name(raw) or None
            if raw in labels and label is None:
                self.dropped["left_out_by_labels"] += 1
                continue
            codes[raw] += raw not in labels and is_code(raw)
            usage = "train" if label else "none"
            if usage_column:
                if cells[usage_column] not in parts:
                    raise unknown_name(
                        f"usage in column '{usage_column}' ({where})", cells[usage_column].lower(), USAGES
                    )
                usage = parts[cells[usage_column]]
            identity = cells[identity_column] or None if identity_column else None
            box = box_of(cells, settings.box_columns, settings.box_format, where) if settings.box_columns else None
            found.append((line, RawRecord(name, label=label, usage=usage, identity=identity, face=box)))
        _refuse_codes(path, settings.label_column, +codes)
        if settings.label_column:
            words = [cells[settings.label_column] for _, cells in rows]
            if odd := next((word for word in words if not word.isprintable()), None):
                raise SsferError(f"{path} has a label with control characters, {odd[:40]!r}; correct the table")
            self.notes += merged_words(words, labels)
        refuse_shares(f"columns {', '.join(settings.box_columns or ())} of {path}", (r.face for _, r in found))
        return _one_per_face(path, found)

    def _open_photos(self, path: Path, images: str) -> None:
        if PurePosixPath(images).is_absolute() or ".." in PurePosixPath(images).parts:
            raise SsferError(f"expected 'images' to be a folder or zip in {path.parent}, found '{images}'; move it")
        self._archive = open_archive(path.parent / images)
        names = set(self._archive.names())
        self.missing = [r.path for r in self._records if self._photo.get(r.path, r.path) not in names]
        refuse_most_missing(
            str(path), len(self._records), self.missing, f"paths are relative to {self._archive.label} ('images')"
        )
        listed = {self._photo.get(r.path, r.path) for r in self._records}
        self.dropped["not_in_table"] = sum(n.lower().endswith(EXTENSIONS) for n in names - listed)

    def read(self, record: RawRecord) -> bytes:
        """See `Source.read`."""
        return self._archive.read(self._photo.get(record.path, record.path))

    def stamp(self, record: RawRecord) -> str:
        """See `Source.stamp`."""
        return self._archive.stamp(self._photo.get(record.path, record.path))


def _photo_name(written: str, where: str, images: str) -> str:
    name = PurePosixPath(written)
    if name.is_absolute() or ".." in name.parts or not name.parts:
        place = "the table's folder" if images == "." else f"'{images}'"
        raise SsferError(f"{where}: expected the path of a photo inside {place}, found '{written[:80]}'")
    return str(name)


def _one_per_face(path: Path, found: Sequence[tuple[int, RawRecord]]) -> tuple[list[RawRecord], dict[str, str]]:
    """Return the records with paths of their own, and the photo of each that is one of several faces."""
    number = Counter(record.path for _, record in found)
    lines: dict[str, int] = {}
    records, photo = [], {}
    for line, record in found:
        name = record.path
        if number[name] > 1 and record.face is not None:
            record = replace(record, path=face_path(name, record.face))
            photo[record.path] = name
        if record.path in lines:
            raise SsferError(
                f"{path}: expected '{record.path}' once, found it in lines {lines[record.path]} and {line}; several "
                "faces of a photo need their boxes: say in box_columns which columns have them"
            )
        lines[record.path] = line
        records.append(record)
    half = next((name for name in photo.values() if name in lines), None)
    if half:
        raise SsferError(
            f"{path}: photo '{half}' has several rows, and that in line {lines[half]} has no box, which could be about "
            "any of its faces; add the box, or remove the row"
        )
    return records, photo


def _format(path: Path, settings: TableSource.Settings, rows: Sequence[tuple[int, dict[str, str]]], column: str) -> str:
    """Return the format of boxes in one column, if the sizes of some photos leave one only; else ""."""
    numbers, sizes = [], []
    for _, cells in rows[:: max(1, len(rows) // _SAMPLE)]:
        box = four_numbers([cells[column]])
        try:
            with Image.open(path.parent / settings.images / cells[settings.path_column]) as photo:
                size = photo.size
        except (OSError, KeyError, ValueError, Image.DecompressionBombError):
            continue
        if box is not None:
            numbers.append(box)
            sizes.append(size)
    return format_by_photos(numbers, sizes) or ""


def _refuse_codes(path: Path, column: str | None, codes: Counter[str]) -> None:
    if codes:
        values = ", ".join(f"'{v}' ({n:,} rows)" for v, n in codes.most_common(8))
        raise SsferError(
            f"column '{column}' of {path} has numbers for labels: {values}; say what they mean with 'labels' in the "
            f"source's entry of params.yaml, for example labels: {{'{next(iter(codes))}': happiness}}."
            f"{codes_of(list(codes))}"
        )
