"""FER2013's one csv file of 48x48 gray pixels, `fer2013.csv` or Kaggle's `icml_face_data.csv`, read by offset.

Columns `emotion`, `pixels` (2,304 numbers with blanks between) and `Usage` in any order; icml_face_data.csv writes
blanks before the names. The file has 287 MiB: one pass notes the offset of every row; pixels are decoded on reading.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.labels import ANGER, DISGUST, FEAR, HAPPINESS, NEUTRAL, SADNESS, SURPRISE
from ssfer.datasets.shared.label_files import Lines, columns, csv_rows

PIXEL_FILES = ("fer2013.csv", "icml_face_data.csv")
# FER2013 has its own numbering of the expressions, without contempt.
CODES = (ANGER, DISGUST, FEAR, HAPPINESS, SADNESS, SURPRISE, NEUTRAL)
# The parts of FER2013 under FERPlus's names.
PART_OF_USAGE = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
SIDE = 48


def part_of_usage(usage: str, where: str) -> str:
    """Return FERPlus's name of the part that FER2013 calls `usage`.

    Raises:
        SsferError: unknown usage; `where` names file and line.
    """
    if usage not in PART_OF_USAGE:
        raise unknown_name(f"usage (in {where})", usage, PART_OF_USAGE)
    return PART_OF_USAGE[usage]


@dataclass(frozen=True)
class PixelRow:
    """One image: its part, FER2013's own label, and offset, length and CRC of its line in the file."""

    part: str
    label: str
    offset: int
    length: int
    crc: int


class PixelTable:
    """All rows of the file in its order; picklable, the file is opened for every read.

    Raises:
        SsferError: missing column, unknown usage, label that is not 0 to 6, not 2,304 pixels; with the line number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = list(self._scan())

    def _scan(self) -> Iterator[PixelRow]:
        where = str(self.path)
        with open(self.path, "rb") as file:
            lines = _Recorder(file)
            rows = csv_rows(lines, where)
            self._columns = columns(next(rows, (0, [""]))[1], ("emotion", "pixels", "Usage"), where)
            for line, fields in rows:
                if len(fields) != 3:
                    raise SsferError(f"{where}, line {line}: expected three columns, found {len(fields)}")
                label, pixels, usage = (fields[i] for i in self._columns)
                if label not in map(str, range(len(CODES))):
                    raise SsferError(f"{where}, line {line}: expected an emotion from 0 to 6, found '{label[:40]}'")
                if len(pixels.split()) != SIDE * SIDE:
                    raise SsferError(
                        f"{where}, line {line}: expected {SIDE * SIDE} pixels, found {len(pixels.split())}; the copy "
                        "is damaged, get the file again"
                    )
                part = part_of_usage(usage, f"{where}, line {line}")
                yield PixelRow(part, CODES[int(label)], lines.offset, len(lines.last), crc32(lines.last))

    def read(self, row: PixelRow) -> bytes:
        """Return an image as PNG.

        Raises:
            OSError, ValueError: the file changed since it was listed.
        """
        with open(self.path, "rb") as file:
            file.seek(row.offset)
            line = file.read(row.length)
        if crc32(line) != row.crc:
            raise ValueError(f"{self.path} changed while it was in use")
        [(_, fields)] = csv_rows(BytesIO(line), str(self.path))
        values = np.array([int(v) for v in fields[self._columns[1]].split()])
        if values.min() < 0 or values.max() > 255:
            raise ValueError("a pixel is not between 0 and 255")
        buffer = BytesIO()
        Image.fromarray(values.astype(np.uint8).reshape(SIDE, SIDE)).save(buffer, "PNG")
        return buffer.getvalue()

    def stamp(self, row: PixelRow) -> str:
        """Return length and CRC of the row."""
        return f"{row.length}:{row.crc:08x}"


class _Recorder:
    """Wraps a file's `readline` and stores the last line and its offset."""

    def __init__(self, file: Lines) -> None:
        self._file = file
        self.offset, self.last = 0, b""

    def readline(self, limit: int, /) -> bytes:
        self.offset += len(self.last)
        self.last = self._file.readline(limit)
        return self.last
