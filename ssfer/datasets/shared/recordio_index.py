"""The .idx file beside an MXNet .rec file: text, "key<tab>offset" per record in any order; every number is checked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from ssfer.core.errors import SsferError

# Smallest record: two words of RecordIO and its own header <IfQQ.
FRAME_BYTES, HEADER_BYTES = 8, 24
_LINE_BYTES = 28  # at most


@dataclass(frozen=True)
class Index:
    """Keys, ascending, their offsets, and the bytes before the next record or the end; all (n,) int64, n > 0."""

    keys: np.ndarray
    offsets: np.ndarray
    rooms: np.ndarray

    def take(self, rows: np.ndarray) -> Index:
        """Return some rows: a mask, or numbers."""
        return Index(self.keys[rows], self.offsets[rows], self.rooms[rows])


def file_state(path: Path) -> tuple[int, int]:
    """Return size and modification time (ns) of a plain file.

    Raises:
        SsferError: no such file, or not a plain file.
    """
    if not path.is_file():  # reading a pipe would wait forever
        raise SsferError(f"expected the file {path.name} in {path.parent}, found none; .rec and .idx belong together")
    info = os.stat(path)
    return info.st_size, info.st_mtime_ns


def read_index(index: Path, rec: Path, rec_bytes: int) -> Index:
    """Read the .idx file of a .rec file that has `rec_bytes` bytes.

    Raises:
        SsferError: damaged, or not of this .rec file.
    """
    keys, offsets = _read_pairs(index, rec, rec_bytes)
    order = np.argsort(keys, kind="stable")
    keys, offsets = keys[order], offsets[order]
    twice = np.flatnonzero(np.diff(keys) == 0)
    if len(twice):
        raise SsferError(f"{index}: expected record {keys[twice[0]]} once, found it twice; copy the file again")
    wrong = (offsets % 4 != 0) | (offsets < 0) | (offsets > rec_bytes - FRAME_BYTES)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise SsferError(
            f"{index}: expected the offset of record {keys[i]} to be a multiple of 4 inside the {rec_bytes:,} bytes of "
            f"{rec.name}, found {offsets[i]:,}; one file is incomplete or they do not belong together, copy both again"
        )
    order = np.argsort(offsets)
    rooms = np.empty(len(offsets), dtype=np.int64)
    rooms[order] = np.diff(offsets[order], append=rec_bytes)
    return Index(keys, offsets, rooms)


def _read_pairs(index: Path, rec: Path, rec_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    size, most = file_state(index)[0], (rec_bytes // (FRAME_BYTES + HEADER_BYTES) + 1) * _LINE_BYTES
    if size > most:
        raise SsferError(
            f"{index}: expected at most {most:,} bytes beside the {rec_bytes:,} bytes of {rec.name}, found {size:,}; "
            "one file is incomplete or they do not belong together, copy both again"
        )
    types = {"key": pa.int64(), "offset": pa.int64()}
    try:
        table = csv.read_csv(
            index,
            csv.ReadOptions(column_names=list(types), use_threads=False),
            csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(column_types=types, null_values=[]),
        )
    except pa.ArrowInvalid as error:
        raise SsferError(
            f"{index}: expected a key, a tab and an offset on every line ({error}); copy it again"
        ) from error
    return table["key"].to_numpy(), table["offset"].to_numpy()
