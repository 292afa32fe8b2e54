"""Tables of users, as spreadsheets and programs write them: rows as cells by column."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ssfer.core.errors import SsferError
from ssfer.datasets.shared.archives import MAX_FILE_BYTES

SEPARATORS = ",;\t"


def read_rows(path: Path, columns: Sequence[str] = ()) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header, which has each of `columns` once, and (line number, cells by column) of rows not empty."""
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
    return header, [(line, dict(zip(header, cells, strict=True))) for line, cells in rows[1:]]
