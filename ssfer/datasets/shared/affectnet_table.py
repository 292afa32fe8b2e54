"""Tables of AffectNet's whole photos: training.csv, validation.csv and automatically_annotated.csv."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ssfer.core.errors import SsferError
from ssfer.datasets.shared.archives import Archive
from ssfer.datasets.shared.label_files import columns, csv_rows, open_member

_COLUMNS = (
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
_USED = ("subDirectory_filePath", "expression", "face_x", "face_y", "face_width", "face_height")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Row:
    """One line: file and line for messages, the photo's name below the images' folder, expression, box as written."""

    where: str
    name: str
    expression: str
    box: Sequence[str]

    @cached_property
    def face(self) -> Box:
        """The face's x1, y1, x2, y2 in pixels.

        Raises:
            SsferError: not the numbers of a box.
        """
        try:
            x, y, width, height = map(float, self.box)
        except ValueError:
            x = y = width = height = math.nan
        if not (math.isfinite(x + y) and 0 < width < math.inf and 0 < height < math.inf):
            raise SsferError(
                f"{self.where}: expected a face box (x, y, width, height), found {', '.join(self.box)[:60]}"
            )
        return x, y, x + width, y + height


def read_table(path: Path, archive: Archive, table: str) -> Iterator[Row]:
    """Yield the rows of a table in `archive`, the view of `path`; copies without a header are read as published.

    Raises:
        SsferError: a column is missing, or a line has another number of fields.
    """
    source = f"{path}: {table}"
    at: list[int] = []
    with open_member(path, archive, table) as file:
        for line, row in csv_rows(file, source):
            if not at:
                has_header = _COLUMNS[0].lower() in map(str.lower, row)
                header = row if has_header else _COLUMNS
                at = columns(header, _USED, source)
                if has_header:
                    continue
            where = f"{source}, line {line}"
            if len(row) != len(header):
                raise SsferError(f"{where}: expected {len(header)} columns ({header[0]}, ...), found {len(row)}")
            name, expression, *box = (row[i] for i in at)
            yield Row(where, name, expression, box)
