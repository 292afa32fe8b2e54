"""Any data set as a table with one row per photo: for labels that fit no folder layout.

The table is UTF-8 text, with or without a byte order mark: csv with a header, whose separator is the one of comma,
semicolon and tab that occurs most in it and whose fields may be quoted as spreadsheets do; or a JSON object per line
(.jsonl). Paths are relative to the folder or zip with the photos, which is the table's folder or is inside it. The
source may also be a folder or zip that has the tables in it. A photo may have a row per face with its box. Labels
are class names, upper or lower case; usual words for expressions (happy, angry) are understood, and `labels` maps
others, exactly as they are written. Numbers are never guessed. A row without a label, or with a word for none (NA,
unknown), is an unlabeled photo.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.images import EXTENSIONS
from ssfer.core.labels import class_name, codes_of, is_code
from ssfer.datasets.base import RawRecord, SourceSettings
from ssfer.datasets.shared.archives import open_archive
from ssfer.datasets.shared.boxes import FORMATS, box_columns, box_of, refuse_shares
from ssfer.datasets.shared.label_files import refuse_most_missing
from ssfer.datasets.shared.parts import usages
from ssfer.datasets.shared.photo_archive import ArchiveSource
from ssfer.datasets.shared.table_faces import Row, format_of, one_per_face
from ssfer.datasets.shared.table_files import OpenTable, TableFile, chosen, find_tables, is_table, open_tables
from ssfer.datasets.shared.table_photos import USAGE, composed, known_columns, normal, posix, unused_parts
from ssfer.datasets.shared.table_rows import ENDINGS, read_rows
from ssfer.datasets.shared.words import NO_LABEL, understood_words
from ssfer.formats.manifest import USAGES


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
        path_prefix: str = Field("", description="Beginning of the paths that is left out, such as /home/me/faces/.")
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
        tables: tuple[TableFile, ...] = Field(
            (), description="Tables, where the source is the folder or zip that holds them and the photos."
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
        """See `Source.recognize`: a table itself; what a folder's tables list is seen by reading them."""
        return len(names) == 1 and "/" not in names[0] and names[0].lower().endswith(ENDINGS)

    @classmethod
    def suggest(cls, path: Path, settings: Settings) -> Settings:
        """See `Source.suggest`: columns whose names or cells say what is in them, and where the photos are."""
        archive = open_archive(path.parent if is_table(path) else path)
        if is_table(path):
            table = next(iter(find_tables(path.parent, archive, [path.name])[0]), None)
            try:
                header, rows = (table.header, table.rows) if table else read_rows(path)
            except SsferError:
                return settings  # opening it says why
            found: dict[str, Any] = dict(table.listing.columns if table else known_columns(header, rows))
            if table:
                found |= {"images": table.listing.images, "path_prefix": table.listing.prefix}
        else:
            tables = find_tables(path, archive)[0]
            files = chosen(tables)
            table = next((table for table in tables if table.file in {file.file for file in files}), None)
            if table is None:
                return settings
            header, rows = table.header, table.rows
            found = dict(table.listing.columns) | {"tables": tuple(files), "path_prefix": table.listing.prefix}
            if any(file.usage for file in files):
                found.pop(USAGE, None)
        suggested = settings.model_copy(update=found)
        columns, form = box_columns(header)
        if columns and not form and table is not None:
            photos = [(table.photo(row[suggested.path_column]), row[columns[0]]) for _, row in rows]
            form = format_of(archive, photos)
        if form and settings.box_columns is None:
            return suggested.model_copy(update={"box_columns": columns, "box_format": form, "align": "similarity"})
        return suggested

    def __init__(self, path: Path, settings: Settings) -> None:
        boxes = settings.box_columns or ()
        single = (settings.path_column, settings.label_column, settings.usage_column, settings.identity_column)
        columns = [c for c in (*single, *boxes) if c is not None]
        self.dropped: Counter[str] = Counter()
        self._archive, tables = open_tables(path, settings.images, settings.tables, columns)
        names = set(self._archive.names())
        self._stored = {composed(name): name for name in names if not name.isascii()}
        where = " and ".join(table.where for table in tables)
        self._records, self._photo = self._read_tables(where, settings, tables, names)
        if not self._records:
            raise SsferError(f"{where} has no row below its header, expected one per photo")
        self._look_for_photos(where, names)
        self.variant = f"table with columns {', '.join(columns)}"
        if len(tables) > 1:
            self.variant = f"{len(tables)} tables with columns {', '.join(columns)}"
        if settings.label_column and (bare := sum(r.label is None for r in self._records)):
            self.notes.append(
                f"{bare:,} of {len(self._records):,} rows have no label{self._words_for_none(tables, settings)}"
            )
        if not settings.usage_column and not settings.tables:
            self.notes += unused_parts(tables[0].header, tables[0].rows)
        if not boxes and (unused := box_columns(tables[0].header)[0]):
            self.notes.append(
                f"the boxes of faces in column{'s' if len(unused) > 1 else ''} {', '.join(unused)} are not used; name "
                f"them in the source's box_columns, and say in box_format whether they are {' or '.join(FORMATS)}"
            )

    def _read_tables(
        self, where: str, settings: Settings, tables: Sequence[OpenTable], names: set[str]
    ) -> tuple[list[RawRecord], dict[str, str]]:
        """Return the records and the photo of each that is one of several faces; set `notes` and `dropped`."""
        labels = {raw: name if name is None else class_name(name) for raw, name in settings.labels.items()}
        column = settings.usage_column
        parts, note = usages({t.usage or "" for t in tables} | {c[column] for t in tables for _, c in t.rows if column})
        self.notes = [note] if note else []
        rows = [row for table in tables for row in self._rows(table, settings, labels, parts, names)]
        if settings.label_column:
            words = [cells[settings.label_column] for table in tables for _, cells in table.rows]
            _refuse_codes(where, settings.label_column, Counter(w for w in words if w not in labels and is_code(w)))
            if odd := next((word for word in words if not word.isprintable()), None):
                raise SsferError(f"{where} has a label with control characters, {odd[:40]!r}; correct the table")
            self.notes += understood_words(words, labels)
        refuse_shares(f"columns {', '.join(settings.box_columns or ())} of {where}", (r.record.face for r in rows))
        return one_per_face(rows)

    def _words_for_none(self, tables: Sequence[OpenTable], settings: Settings) -> str:
        """Return, as the end of a sentence, the words that were read as no label; "" if there are none."""
        column = settings.label_column or ""
        words = {cells[column] for table in tables for _, cells in table.rows} - set(settings.labels)
        said = ", ".join(f"'{word}'" for word in sorted(words) if word and word.lower() in NO_LABEL)
        return f"; {said} means none, or is a class if 'labels' says so" if said else ""

    def _rows(
        self,
        table: OpenTable,
        settings: Settings,
        labels: Mapping[str, str | None],
        parts: Mapping[str, str],
        names: set[str],
    ) -> Iterator[Row]:
        usage_column, identity_column = settings.usage_column, settings.identity_column
        for line, cells in table.rows:
            where = f"{table.where}, line {line}"
            name = _photo_name(cells[settings.path_column], where, settings, table.images, names)
            name = name if name in names else self._stored.get(composed(name), name)
            raw = cells[settings.label_column] if settings.label_column else ""
            raw = "" if raw.lower() in NO_LABEL and raw not in labels else raw
            label = labels[raw] if raw in labels else class_name(raw) or None
            if raw in labels and label is None:
                self.dropped["left_out_by_labels"] += 1
                continue
            usage = "train" if label else "none"
            if table.usage:
                usage = parts[table.usage]
            elif usage_column:
                if cells[usage_column] not in parts:
                    raise unknown_name(
                        f"usage in column '{usage_column}' ({where})", cells[usage_column].lower(), USAGES
                    )
                usage = parts[cells[usage_column]]
            identity = cells[identity_column] or None if identity_column else None
            box = box_of(cells, settings.box_columns, settings.box_format, where) if settings.box_columns else None
            yield Row(table.where, line, RawRecord(name, label=label, usage=usage, identity=identity, face=box))

    def _look_for_photos(self, where: str, names: set[str]) -> None:
        photo_of = {r.path: self._photo.get(r.path, r.path) for r in self._records}
        self.missing = [path for path, photo in photo_of.items() if photo not in names]
        advice = f"paths are relative to {self._archive.label} ('images')"
        if self.missing and (ending := next((e for e in EXTENSIONS if self.missing[0] + e in names), None)):
            advice = f"write the ending of the files, {ending}, in the table"
        refuse_most_missing(where, len(self._records), self.missing, advice)
        photos = {name for name in names if name.lower().endswith(EXTENSIONS)}
        self.dropped["not_in_table"] = len(photos - set(photo_of.values()))

    def read(self, record: RawRecord) -> bytes:
        """See `Source.read`."""
        return self._archive.read(self._photo.get(record.path, record.path))

    def stamp(self, record: RawRecord) -> str:
        """See `Source.stamp`."""
        return self._archive.stamp(self._photo.get(record.path, record.path))


def _photo_name(written: str, where: str, settings: TableSource.Settings, folder: str, names: set[str]) -> str:
    """Return the name in the archive of the photo that a row means."""
    short = written.removeprefix(settings.path_prefix)
    if "\\" in short and normal(f"{folder}/{short}") not in names:
        short = posix(written).removeprefix(settings.path_prefix)  # as Windows writes paths
    name = PurePosixPath(short)
    if name.is_absolute() or re.match("[A-Za-z]:", short) or ".." in name.parts or not name.parts:
        place = folder if folder != "." else settings.images
        shown = "the table's folder" if place == "." else f"'{place}'"
        advice = "; path_prefix in the source's entry leaves out how all paths begin" if len(name.parts) > 1 else ""
        raise SsferError(f"{where}: expected the path of a photo inside {shown}, found '{written[:80]}'{advice}")
    return normal(f"{folder}/{name}")


def _refuse_codes(path: str, column: str, codes: Counter[str]) -> None:
    if codes:
        values = ", ".join(f"'{v}' ({n:,} rows)" for v, n in codes.most_common(8))
        raise SsferError(
            f"column '{column}' of {path} has numbers for labels: {values}; say what they mean with 'labels' in the "
            f"source's entry of params.yaml, for example labels: {{'{next(iter(codes))}': happiness}}."
            f"{codes_of(list(codes))}"
        )
