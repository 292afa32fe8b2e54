"""Any data set as a csv file with a header and one row per photo: the way in for labels that no layout fits.

The file is UTF-8, with or without a byte order mark. The separator is the one of comma, semicolon and tab that occurs
most in the header; fields may be quoted as spreadsheets do. Paths are relative to the folder or zip with the photos,
which lies in the table's folder or is it. Labels are class names, upper or lower case; usual words for expressions
(happy, angry) are understood, and `labels` maps others, exactly as they are written. Numbers are never guessed. A row
without a label is an unlabeled photo.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pydantic import Field

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.images import EXTENSIONS
from ssfer.core.labels import class_name, codes_of, is_code
from ssfer.datasets.base import RawRecord, SourceSettings
from ssfer.datasets.shared.archives import MAX_FILE_BYTES, open_archive
from ssfer.datasets.shared.parts import usages
from ssfer.datasets.shared.photo_archive import ArchiveSource
from ssfer.formats.manifest import USAGES

SEPARATORS = ",;\t"
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

    @classmethod
    def recognize(cls, names: Sequence[str]) -> bool:
        """See `Source.recognize`: a csv file itself; in a folder it may be anything."""
        return len(names) == 1 and "/" not in names[0] and names[0].lower().endswith((".csv", ".tsv"))

    @classmethod
    def suggest(cls, path: Path, settings: Settings) -> Settings:
        """See `Source.suggest`: columns whose names say what is in them; a usage column only if its words do, too."""
        try:
            rows = [cells for _, cells in _rows(path, [])]
        except SsferError:
            return settings
        header = list(rows[0]) if rows else []
        found = {}
        for key, names in _COLUMNS.items():
            same = [column for column in header if column.lower() in names]
            if getattr(settings, key) not in header and len(same) == 1:
                found[key] = same[0]
        words = {cells[found["usage_column"]] for cells in rows} if "usage_column" in found else set()
        if words - usages(words)[0].keys():
            del found["usage_column"]
        return settings.model_copy(update=found)

    def __init__(self, path: Path, settings: Settings) -> None:
        images, path_column, label_column = settings.images, settings.path_column, settings.label_column
        usage_column, identity_column = settings.usage_column, settings.identity_column
        columns = [c for c in (path_column, label_column, usage_column, identity_column) if c is not None]
        labels = {raw: name if name is None else class_name(name) for raw, name in settings.labels.items()}
        self._records: list[RawRecord] = []
        lines: dict[str, int] = {}
        codes: Counter[str] = Counter()
        left_out = 0
        rows = list(_rows(path, columns))
        parts, note = usages({cells[usage_column] for _, cells in rows} if usage_column else ())
        for line, cells in rows:
            name = PurePosixPath(cells[path_column])
            if name.is_absolute() or ".." in name.parts or not name.parts:
                raise SsferError(
                    f"{path}, line {line}: expected the path of a photo inside '{images}', found '{str(name)[:80]}'"
                )
            if str(name) in lines:
                raise SsferError(f"{path}: expected '{name}' once, found it in lines {lines[str(name)]} and {line}")
            lines[str(name)] = line
            raw = cells[label_column] if label_column else ""
            raw = "" if raw.lower() == "nan" and raw not in labels else raw  # pandas writes it for nothing
            label = labels[raw] if raw in labels else class_name(raw) or None
            if raw in labels and label is None:
                left_out += 1
                continue
            codes[raw] += raw not in labels and is_code(raw)
            usage = "train" if label else "none"
            if usage_column:
                if cells[usage_column] not in parts:
                    raise unknown_name(
                        f"usage in column '{usage_column}' ({path}, line {line})", cells[usage_column].lower(), USAGES
                    )
                usage = parts[cells[usage_column]]
            identity = cells[identity_column] or None if identity_column else None
            self._records.append(RawRecord(str(name), label=label, usage=usage, identity=identity))
        _refuse_codes(path, label_column, +codes)
        if not self._records:
            raise SsferError(f"{path} has no row below its header, expected one per photo")
        self._open_photos(path, images)
        if left_out:
            self.dropped["left_out_by_labels"] = left_out
        self.variant = f"table with columns {', '.join(columns)}"
        self.notes = [note] if note else []
        if label_column and (bare := sum(r.label is None for r in self._records)):
            self.notes.append(f"{bare:,} of {len(self._records):,} rows have no label")

    def _open_photos(self, path: Path, images: str) -> None:
        if PurePosixPath(images).is_absolute() or ".." in PurePosixPath(images).parts:
            raise SsferError(f"expected 'images' to be a folder or zip in {path.parent}, found '{images}'; move it")
        self._archive = open_archive(path.parent / images)
        names = set(self._archive.names())
        missing = [r.path for r in self._records if r.path not in names]
        if missing:
            raise SsferError(
                f"{path} lists {len(self._records):,} photos, {len(missing):,} of them are missing in "
                f"{self._archive.label}, the first is '{missing[0]}'; paths are relative to 'images'"
            )
        listed = {r.path for r in self._records}
        extra = sum(n.lower().endswith(EXTENSIONS) for n in names - listed)
        self.dropped = Counter({"not_in_table": extra})


def _refuse_codes(path: Path, column: str | None, codes: Counter[str]) -> None:
    if codes:
        values = ", ".join(f"'{v}' ({n:,} rows)" for v, n in codes.most_common(8))
        raise SsferError(
            f"column '{column}' of {path} has numbers for labels: {values}; say what they mean with 'labels' in the "
            f"source's entry of params.yaml, for example labels: {{'{next(iter(codes))}': happiness}}."
            f"{codes_of(list(codes))}"
        )


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, cells by column) of every row that is not empty."""
    if not path.is_file():
        raise SsferError(f"expected a csv file at {path}, found {'a folder' if path.is_dir() else 'none'}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise SsferError(
            f"{path} has {path.stat().st_size:,} bytes, at most {MAX_FILE_BYTES:,} are read; split the table"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SsferError(f"{path} is not UTF-8 text; save the table as 'CSV UTF-8'") from error
    first = text.lstrip("\r\n").split("\n", 1)[0]
    separator = max(SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        rows = [(reader.line_num, [c.strip() for c in row]) for row in reader if any(c.strip() for c in row)]
    except csv.Error as error:
        raise SsferError(f"{path}, line {reader.line_num}: expected a row of a csv file, found {error}") from error
    header = rows[0][1] if rows else []
    for column in columns:
        if header.count(column) != 1:
            raise SsferError(
                f"expected one column '{column}' in {path}, found {header.count(column)} among the columns "
                f"{', '.join(header)[:200] or '(none)'}; name it in the source's entry of params.yaml"
            )
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise SsferError(
                f"{path}, line {line}: expected {len(header)} columns as in the header, found {len(cells)}"
            )
        yield line, dict(zip(header, cells, strict=True))
