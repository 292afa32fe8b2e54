"""Write the table to a file while a command runs: CSV, JSON lines or Parquet, resumable after a kill.

Rows go to <file>.rows.csv (.jsonl), which takes the file's place at the end, so that an interrupted command does not
cost an earlier table. <file>.resume stores how many bytes of it are complete and which inputs they cover; a resumed
command cuts off what follows. Parquet has its index at the end, so its rows are JSON lines, converted at the end.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ssfer.core.errors import SsferError
from ssfer.predict.table import Row, typed

SUFFIXES = (".csv", ".jsonl", ".parquet")
_BLOCK = 10_000  # rows converted to Parquet at a time


class RowFile:
    """Write a table row by row; a context manager.

    Attributes:
        mark: of the interrupted command's last `commit`; None: start at the beginning.
        complete: whether the command to be resumed was finished; then there is nothing to do.

    Args:
        path: its suffix selects the format.
        columns: of the table.
        identity: hash of what the rows depend on; a file with another identity is not resumed.
        resume: continue an interrupted command.

    Raises:
        SsferError: unknown suffix, `path` cannot be written, or the files of the command to be resumed do not fit.
    """

    def __init__(self, path: Path, columns: Sequence[str], identity: str, resume: bool = False) -> None:
        if path.suffix not in SUFFIXES:
            raise SsferError(f"--out {path}: expected a name that ends in {', '.join(SUFFIXES)}")
        self._suffix, self._columns, self._identity = path.suffix, list(columns), identity
        self._path = path = Path(os.path.realpath(path))  # the rows take the place of the file, not of a link to it
        kind = ".jsonl" if self._suffix == ".parquet" else self._suffix
        self._growing, self._state = (path.with_name(f"{path.name}{end}") for end in (f".rows{kind}", ".resume"))
        self.mark: dict[str, Any] | None = self._read_state() if resume else None
        if self.mark and self.mark.get("finished"):  # killed while the rows took the file's place
            self._take_place()
            self.mark = None
        self.complete = resume and self.mark is None and path.is_file() and path.stat().st_size > 0
        if self.complete:
            _check_columns(path, self._suffix, self._columns)
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError("it is a folder")
            if path.exists() and not os.access(path, os.W_OK):
                raise PermissionError("it is write-protected")
            self._file = _opened_alone(self._growing)
            self._file.truncate(self.mark["bytes"] if self.mark else 0)
            self._file.seek(0, io.SEEK_END)
        except OSError as error:
            raise SsferError(
                f"--out {path} cannot be written to ({error.strerror or error}); name another place"
            ) from error
        if not self.mark and self._growing.suffix == ".csv":
            self._write(self._csv([dict(zip(self._columns, self._columns, strict=True))]))
        if not self.mark:
            self.commit({"items": 0, "input": "", "frame": None})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self.complete:
            return
        with suppress(OSError) if kind else nullcontext():  # a full disk has been told already
            self._file.close()
        if kind is None:
            self._store({"bytes": self._growing.stat().st_size, "finished": True})
            self._take_place()

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows; what is not UTF-8 in a file's name is escaped."""
        rows = [{name: escaped(value) for name, value in row.items()} for row in rows]
        if self._growing.suffix == ".csv":
            self._write(self._csv(rows))
        else:
            lines = (json.dumps({name: row.get(name) for name in self._columns}, ensure_ascii=False) for row in rows)
            self._write("".join(f"{line}\n" for line in lines))

    def commit(self, mark: dict[str, Any]) -> None:
        """Store which inputs all rows so far cover; a resumed command starts after them."""
        self._to_disk(self._file.flush)
        self._store({"bytes": self._file.tell(), **mark})

    def _store(self, mark: dict[str, Any]) -> None:
        state = {"identity": self._identity, **mark}
        temporary = self._state.with_name(f"{self._state.name}.tmp")
        self._to_disk(lambda: temporary.write_text(json.dumps(state)))
        temporary.replace(self._state)

    def _read_state(self) -> dict[str, Any] | None:
        try:
            state: dict[str, Any] = json.loads(self._state.read_text())
            if not isinstance(state, dict) or not isinstance(state.get("bytes"), int):
                raise ValueError("no table and number of bytes")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SsferError(f"{self._state} is damaged; remove it and run again without --resume") from error
        if state.get("identity") != self._identity:
            raise SsferError(
                f"{self._path} was begun with other inputs, weights or options; repeat those, or run without --resume"
            )
        there = self._growing.stat().st_size if self._growing.is_file() else -1
        if there < state["bytes"] and not (there == -1 and state.get("finished")):
            raise SsferError(f"{self._growing} is not what was left there; run again without --resume")
        return state

    def _csv(self, rows: Sequence[Row]) -> str:
        buffer = io.StringIO()
        csv.DictWriter(buffer, self._columns, lineterminator="\n").writerows(rows)
        return buffer.getvalue()

    def _write(self, text: str) -> None:
        self._to_disk(lambda: self._file.write(text.encode()))

    def _to_disk(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except OSError as error:
            raise SsferError(
                f"--out {self._path} cannot be written to ({error.strerror}); make room and run with --resume"
            ) from error

    def _take_place(self) -> None:
        """Put the finished rows where the table belongs; a kill at any point leaves what a resumed command needs."""
        if self._growing.is_file():
            self._to_disk(self._replace)
        self._to_disk(lambda: self._state.unlink(missing_ok=True))

    def _replace(self) -> None:
        finished = self._growing
        if self._suffix == ".parquet":
            finished = self._path.with_name(f"{self._path.name}.tmp")
            self._to_parquet(finished)
        if self._path.exists():
            shutil.copymode(self._path, finished)
        finished.replace(self._path)
        self._growing.unlink(missing_ok=True)

    def _to_parquet(self, path: Path) -> None:
        empty = typed(pd.DataFrame(columns=self._columns))
        schema = pa.Schema.from_pandas(empty, preserve_index=False)
        with pq.ParquetWriter(path, schema) as writer, open(self._growing, encoding="utf-8") as file:
            while rows := [json.loads(line) for _, line in zip(range(_BLOCK), file, strict=False)]:
                table = typed(pd.DataFrame(rows, columns=self._columns))
                writer.write_table(pa.Table.from_pandas(table, schema, preserve_index=False))


def _opened_alone(path: Path) -> BinaryIO:
    """Return a file to be written, created if need be, that no other command writes.

    Raises:
        SsferError: another one does.
        OSError: it cannot be written.
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())  # not put in place meanwhile
    except BlockingIOError:
        alone = False
    except OSError:  # this file system has no locks
        alone = True
    if not alone:
        file.close()
        raise SsferError(f"another command is writing {path}; wait for its end, or name another --out")
    return file


def escaped(value: Any) -> Any:
    """Return text with what is not UTF-8 escaped, as a table has it; other values as they are."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def first_input(path: Path) -> str | None:
    """Return the first row's input of a complete table; None if it has no rows."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as table:
            found = [
                row for part in islice(table.iter_batches(1, columns=["input"]), 1) for row in part["input"].to_pylist()
            ]
    elif path.suffix == ".jsonl":
        with open(path, encoding="utf-8") as file:
            found = [json.loads(line)["input"] for line in islice(file, 1)]
    else:
        with open(path, encoding="utf-8", newline="") as file:
            found = [row["input"] for row in islice(csv.DictReader(file), 1)]
    return found[0] if found else None


def _check_columns(path: Path, suffix: str, columns: Sequence[str]) -> None:
    """Check that a file that `--resume` is to leave as it is has this table's columns."""
    try:
        if suffix == ".parquet":
            found = pq.read_schema(path).names
        else:
            with open(path, encoding="utf-8") as file:
                first = file.readline()
            found = list(json.loads(first)) if suffix == ".jsonl" else next(csv.reader([first]), [])
    except (OSError, ValueError, pa.ArrowException):
        found = []
    if found != list(columns):
        raise SsferError(f"--out {path} is no table of this model, so it cannot be resumed; name another file")
