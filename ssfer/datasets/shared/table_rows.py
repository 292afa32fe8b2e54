"""Tables of users, as spreadsheets and programs write them: csv text or a JSON object per line; cells by column."""

from __future__ import annotations

import csv
import io
import json
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ssfer.core.errors import SsferError
from ssfer.core.images import EXTENSIONS
from ssfer.datasets.shared.archives import MAX_FILE_BYTES

SEPARATORS = ",;\t"
JSON_LINES = (".jsonl", ".ndjson")
ENDINGS = (".csv", ".tsv", *JSON_LINES)
Rows = list[tuple[int, dict[str, str]]]  # line number, cells by column


def read_rows(path: Path, columns: Sequence[str] = ()) -> tuple[list[str], Rows]:
    """Return the header, which has each of `columns` once, and (line number, cells by column) of rows not empty."""
    if not path.is_file():
        raise SsferError(f"expected a csv file at {path}, found {'a folder' if path.is_dir() else 'none'}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise SsferError(
            f"{path} has {path.stat().st_size:,} bytes, at most {MAX_FILE_BYTES:,} are read; split the table"
        )
    return parse_rows(path.read_bytes(), str(path), columns)


def parse_rows(data: bytes, where: str, columns: Sequence[str] = ()) -> tuple[list[str], Rows]:
    """Return what `read_rows` does, of the bytes of a table; `where` names it and its ending says the form."""
    try:
        text = data.decode("utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise SsferError(f"{where} is not UTF-8 text; save the table as 'CSV UTF-8'") from error
    form = _json_rows if where.lower().endswith(JSON_LINES) else _csv_rows
    header, rows = form(text, where)
    for column in columns:
        if header.count(column) != 1:
            raise SsferError(
                f"expected one column '{column}' in {where}, found {header.count(column)} among the columns "
                f"{', '.join(header)[:200] or '(none)'}; name it in the source's entry of params.yaml"
            )
    return header, rows


def _csv_rows(text: str, where: str) -> tuple[list[str], Rows]:
    first = text.lstrip("\r\n").split("\n", 1)[0]
    separator = max(SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        rows = [(reader.line_num, [c.strip() for c in row]) for row in reader if any(c.strip() for c in row)]
    except csv.Error as error:
        raise SsferError(f"{where}, line {reader.line_num}: expected a row of a csv file, found {error}") from error
    header = rows[0][1] if rows else []
    if photo := next((name for name in header if name.lower().endswith(EXTENSIONS)), None):
        raise SsferError(
            f"{where} begins with the row of '{photo[:80]}', expected the names of its columns there; add a first "
            "line such as path,label"
        )
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise SsferError(
                f"{where}, line {line}: expected {len(header)} columns as in the header, found {len(cells)}"
            )
    return header, [(line, dict(zip(header, cells, strict=True))) for line, cells in rows[1:]]


def _json_rows(text: str, where: str) -> tuple[list[str], Rows]:
    found: Rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SsferError(f"{where}, line {number}: expected one JSON object a line, found {line[:60]!r}") from error
        if not isinstance(row, dict):
            raise SsferError(f"{where}, line {number}: expected one JSON object a line, found {line[:60]!r}")
        cells = dict(_cells(row))
        try:
            "".join((*cells, *cells.values())).encode()
        except UnicodeEncodeError as error:
            raise SsferError(f"{where}, line {number}: expected text, found half of a character (\\ud...)") from error
        found.append((number, cells))
    header = list(dict.fromkeys(column for _, cells in found for column in cells))
    return header, [(number, {column: cells.get(column, "") for column in header}) for number, cells in found]


def _cells(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the cells of an object as a csv file would have them; those of an object inside as bbox.x."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", cell) for inner, cell in _cells(value))
        else:
            yield name.strip(), "" if value is None else value.strip() if isinstance(value, str) else json.dumps(value)
