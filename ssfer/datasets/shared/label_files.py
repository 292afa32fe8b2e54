"""Label files of data sets, text or csv: read line by line; every error is one sentence with its line number.

They come from anywhere, and some are very large (AffectNet's training.csv, FER2013's pixels): only one line is in
memory at a time, and a line must not be longer than any real one.
"""

import csv
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import count
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from ssfer.core.errors import SsferError
from ssfer.datasets.shared.archives import UNREADABLE, Archive

# The longest real lines are FER2013's 48x48 pixels, under 10,000 bytes.
MAX_LINE = 64 * 2**10


class Lines(Protocol):
    """The interface needed of an open file."""

    def readline(self, limit: int, /) -> bytes:
        """See `io.BufferedIOBase.readline`."""
        ...


def files_called(names: Sequence[str], ending: str) -> list[str]:
    """Return the names that are `ending` ("EmoLabel/list.txt") or end in it below some folder."""
    return [name for name in names if name == ending or name.endswith("/" + ending)]


def text_lines(file: Lines, where: str) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text without line end) of all lines that are not blank.

    Raises:
        SsferError: not UTF-8 text, or a line longer than MAX_LINE bytes; `where` names the file.
    """
    for number in count(1):
        raw = file.readline(MAX_LINE + 1)
        if not raw:
            return
        if len(raw) > MAX_LINE:
            raise SsferError(f"{where}, line {number}: longer than {MAX_LINE} bytes; expected a table of short lines")
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise SsferError(f"{where} is not a text file (line {number}); expected a table in UTF-8") from error
        if text.strip():
            yield number, text


def csv_rows(file: Lines, where: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields without blanks around them) of comma-separated text; see `text_lines`."""
    for number, text in text_lines(file, where):
        try:
            fields = next(csv.reader([text]))
        except csv.Error as error:
            raise SsferError(f"{where}, line {number}: not a row of a table ({error})") from error
        yield number, [field.strip() for field in fields]


def columns(header: Sequence[str], wanted: Sequence[str], where: str) -> list[int]:
    """Return the positions of the `wanted` columns in a header row; upper and lower case are the same.

    Raises:
        SsferError: one is missing.
    """
    found = [name.lower() for name in header]
    absent = [name for name in wanted if name.lower() not in found]
    if absent:
        raise SsferError(
            f"{where}: expected the columns {', '.join(wanted)}, found no '{absent[0]}' among "
            f"{', '.join(header)[:120]}; take the file as its authors publish it"
        )
    return [found.index(name.lower()) for name in wanted]


def open_member(path: Path, archive: Archive, name: str) -> BinaryIO:
    """Open a file of `archive`, which is the view of `path`, for reading; files on disk are not read as a whole.

    Raises:
        SsferError: it cannot be read, or its archive is damaged.
    """
    try:
        return open(path / name, "rb") if path.is_dir() else BytesIO(archive.read(name))
    except UNREADABLE as error:
        raise SsferError(f"cannot read '{name}' in {archive.label} ({error}); copy or download it again") from error


def refuse_most_missing(where: str, listed: int, missing: Sequence[str], advice: str = "") -> None:
    """Refuse a table of which at least half of the listed images are missing: it belongs to other photos.

    For smaller shares see `data.max_missing` (`ssfer.datasets.registry.open_source`).

    Raises:
        SsferError: see above.
    """
    outside = next((m for m in missing if m.startswith("/") or ".." in PurePosixPath(m).parts), None)
    if outside:
        raise SsferError(f"{where} lists '{outside[:80]}', which is not inside the data set; take the row out")
    if missing and 2 * len(missing) >= listed:
        raise SsferError(
            f"{where} lists {listed:,} images, {len(missing):,} of them are missing, the first is '{missing[0]}'; "
            f"{advice or 'the copy is incomplete, complete it or make it again'}"
        )
