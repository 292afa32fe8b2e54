"""Find images that are the same picture: exactly (hashes) or nearly (re-encoded, rescaled, slightly edited copies).

A near duplicate needs two witnesses: perceptual hashes of the whole photos within a few bits make a candidate without
comparing all pairs (`ssfer.copies.hamming`), then the face crops must agree (`ssfer.copies.registration`). Candidates that are
no copies grow with the square of the number of photos: about one in 100,000 pairs of faces is within 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from ssfer.copies.hamming import HammingIndex
from ssfer.copies.registration import Looks, same_picture
from ssfer.core.progress import Progress

_EXACT = ("sha256", "pixel_sha256")


@dataclass(frozen=True)
class Copies:
    """Which of n rows copy another picture.

    `how` (n,) str is "" (none), "exact" or "near"; `of` (n,) int64 is the other row, -1 where there is none.
    """

    how: np.ndarray
    of: np.ndarray

    @staticmethod
    def none(rows: int) -> Copies:
        """Return no copies at all."""
        return Copies(np.full(rows, "", dtype=object), np.full(rows, -1, dtype=np.int64))

    def mark(self, rows: np.ndarray, how: str, of: np.ndarray) -> None:
        """Note that these rows copy those."""
        self.how[rows], self.of[rows] = how, of


def parse_hashes(column: pa.ChunkedArray | list[str | None]) -> np.ndarray:
    """Return 16-digit hex hashes as (n,) uint64; missing ones become 0, which is never anyone's copy."""
    values = column if isinstance(column, list) else column.to_pylist()
    return np.array([int(v, 16) if v else 0 for v in values], dtype=np.uint64)


def matches(table: pa.Table, others: pa.Table, faces: Path, bits: int, correlation: float) -> Copies:
    """Return which rows of `table` copy a row of `others`, and the first such row.

    Args:
        table, others: manifest rows of data/faces.
        faces: the folder data/faces.
        bits, correlation: see `hamming.HammingIndex` and `looks.same_picture`.
    """
    copies = Copies.none(table.num_rows)
    for column in _EXACT:
        first = others.column(column).to_pandas().dropna().drop_duplicates()
        of = table.column(column).to_pandas().map(pd.Series(first.index, first.to_numpy())).to_numpy(float)
        rows = np.flatnonzero((copies.how == "") & ~np.isnan(of))
        copies.mark(rows, "exact", of[rows].astype(np.int64))
    hashes, other_hashes = (parse_hashes(t.column("phash")) for t in (table, others))
    hashes[copies.how != ""] = 0
    looks, other_looks = Looks(table, faces), Looks(others, faces)
    with Progress("compare with evaluation images", table.num_rows) as progress:
        for i, j in HammingIndex(other_hashes, bits).pairs(hashes):
            sure = same_picture(i, j, looks, other_looks, correlation)
            copies.mark(i[sure][::-1], "near", j[sure][::-1])  # backwards: the first one is written last
            progress.advance(int(i[-1]) + 1 - progress.done)
        progress.advance(table.num_rows - progress.done)
    return copies


def decontaminate(train_rows: pa.Table, eval_rows: pa.Table, faces: Path, bits: int, correlation: float) -> np.ndarray:
    """Return (n,) bool: True for the training rows that copy no evaluation image, exactly or nearly; see `matches`."""
    return matches(train_rows, eval_rows, faces, bits, correlation).how == ""


def repeated(table: pa.Table, faces: Path, bits: int, correlation: float) -> Copies:
    """Return which rows copy an earlier one that stays.

    The first of several equal images stays. A near duplicate of a dropped image is compared with what stays only, so a
    chain of slight changes does not erase its far end.
    """
    copies = Copies.none(table.num_rows)
    for column in _EXACT:
        values = table.column(column).to_pandas()
        values[copies.how != ""] = None
        values = values.dropna()
        first = pd.Series(values.index, values.index).groupby(values).transform("first")
        later = first[first != first.index]
        copies.mark(later.index.to_numpy(), "exact", later.to_numpy())
    hashes = parse_hashes(table.column("phash"))
    hashes[copies.how != ""] = 0
    looks = Looks(table, faces)
    with Progress("compare with each other", table.num_rows) as progress:
        for later, earlier in HammingIndex(hashes, bits).pairs(hashes, before=True):
            progress.advance(int(later[-1]) + 1 - progress.done)
            stays = copies.how[earlier] == ""  # dropped in an earlier block: no need to compare
            later, earlier = later[stays], earlier[stays]
            sure = same_picture(later, earlier, looks, looks, correlation)
            # Sorted by j, so that what is earlier is decided.
            for j, i in zip(later[sure].tolist(), earlier[sure].tolist(), strict=True):
                if not copies.how[i] and not copies.how[j]:
                    copies.mark(np.array([j]), "near", np.array([i]))
        progress.advance(table.num_rows - progress.done)
    return copies
