"""Find images that are the same picture: exactly (hashes) or nearly (re-encoded, rescaled, slightly edited copies).

A near copy must pass two tests: the perceptual hashes of the whole photos differ by a few bits, found without comparing
all pairs (`ssfer.copies.hamming`), and the thumbnails agree (`ssfer.copies.registration`). Mirrored, rotated or cropped
copies of evaluation images are found by their aligned faces (`ssfer.copies.changed`). The number of false candidates
grows with the square of the number of photos: about one in 100,000 pairs of faces is within 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ssfer.copies.changed import AGREEMENT, BLOCK, KnownFaces
from ssfer.copies.crops import Crops, comparable_hashes
from ssfer.copies.hamming import HammingIndex
from ssfer.copies.near import NearSearch, first_kept
from ssfer.core.progress import Progress
from ssfer.core.workers import HERE, Workers
from ssfer.formats.face_paths import of_face

_EXACT = ("sha256", "pixel_sha256")


@dataclass(frozen=True)
class Copies:
    """Which of n images copy another one.

    Attributes:
        how: (n,) str, "" (no copy), "exact" or "near".
        of: (n,) int64, the row of the other image; -1 for no copy.
    """

    how: np.ndarray
    of: np.ndarray

    @staticmethod
    def none(rows: int) -> Copies:
        """Return no copies at all."""
        return Copies(np.full(rows, "", dtype=object), np.full(rows, -1, dtype=np.int64))

    def mark(self, rows: np.ndarray, how: str, of: np.ndarray) -> None:
        """Mark `rows` as copies of the rows `of`."""
        self.how[rows], self.of[rows] = how, of


def first_equal(values: pa.ChunkedArray, last: np.ndarray | None = None) -> np.ndarray:
    """Return (n,) int64: the first row that has the same value, -1 for nulls.

    Args:
        values: (n,) strings.
        last: (n,) bool, rows that count as first only if no other row has the value.
    """
    order = np.arange(len(values)) if last is None else np.argsort(last, kind="stable")
    codes, unique = pd.factorize(values.to_pandas().to_numpy()[order])
    first = np.full(len(unique) + 1, -1)  # the last one is for code -1
    first[codes[::-1]] = order[::-1]
    first[-1] = -1
    result = np.empty(len(values), np.int64)
    result[order] = first[codes]
    return result


def matches(
    table: pa.Table,
    others: pa.Table,
    faces: Path,
    bits: int,
    correlation: float,
    workers: Workers = HERE,
) -> Copies:
    """Return which rows of `table` copy a row of `others`, and the first such row.

    Args:
        table: manifest rows with sample_id, sha256, pixel_sha256, phash and what `Crops` needs.
        others: rows likewise.
        faces: folder that holds one folder of shards per source.
        bits: largest distance of the hashes.
        correlation: lowest correlation of the crops, see `ssfer.copies.registration.same_picture`.
        workers: what compares.
    """
    copies = Copies.none(table.num_rows)
    both = pa.concat_tables([t.select(["sample_id", *_EXACT]) for t in (others, table)])
    for column in _EXACT:
        of = first_equal(of_face(both.column(column), both.column("sample_id")))[others.num_rows :]
        rows = np.flatnonzero((copies.how == "") & (of >= 0) & (of < others.num_rows))
        copies.mark(rows, "exact", of[rows])
    crops, other_crops = Crops(table, faces), Crops(others, faces)
    hashes, other_hashes = comparable_hashes(table), comparable_hashes(others)
    index = HammingIndex(other_hashes, bits)
    left = np.where(copies.how == "", hashes, np.uint64(0))
    search = NearSearch(crops, left, other_crops, index, correlation, workers.threads)
    for i, j in search.pairs(workers, "compare with evaluation images"):
        copies.mark(i[::-1], "near", j[::-1])  # backwards: the first one is written last
    rows, there = np.flatnonzero((copies.how == "") & (hashes != 0)), np.flatnonzero(other_hashes)
    if len(rows) and len(there):
        known = KnownFaces(other_crops.aligned(there), max(AGREEMENT, correlation), workers.threads)
        blocks = (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))
        with Progress("compare aligned faces", len(rows)) as progress:
            for block, found in workers.map(changed_in_block, (crops, known), blocks):
                for row, other in found:
                    copies.mark(block[[row]], "near", there[[other]])
                progress.advance(len(block))
    crops.close()
    other_crops.close()
    return copies


def changed_in_block(search: tuple[Crops, KnownFaces], rows: np.ndarray) -> list[tuple[int, int]]:
    """Return the changed copies among the crops of some rows, see `KnownFaces.copies_in`."""
    crops, known = search
    return known.copies_in(crops.aligned(rows))


def decontaminate(
    train_rows: pa.Table,
    eval_rows: pa.Table,
    faces: Path,
    bits: int,
    correlation: float,
    workers: Workers = HERE,
) -> np.ndarray:
    """Return (n,) bool: True for the training rows that copy no evaluation image, exactly or nearly; see `matches`."""
    return matches(train_rows, eval_rows, faces, bits, correlation, workers).how == ""


def repeated(
    table: pa.Table,
    faces: Path,
    bits: int,
    correlation: float,
    workers: Workers = HERE,
) -> Copies:
    """Return which rows copy an earlier row that is kept; see `matches`.

    The first of several equal images is kept. Images are compared only with kept ones, so the last image of a chain of
    slight changes is kept if it is no copy of a kept one.
    """
    copies = Copies.none(table.num_rows)
    for column in _EXACT:
        free = pa.chunked_array([pa.array(copies.how == "")])
        values = of_face(table.column(column), table.column("sample_id"))
        first = first_equal(pc.if_else(free, values, None))
        rows = np.flatnonzero((first >= 0) & (first < np.arange(table.num_rows)))
        copies.mark(rows, "exact", first[rows])
    hashes = np.where(copies.how == "", comparable_hashes(table), np.uint64(0))
    crops = Crops(table, faces)
    search = NearSearch(crops, hashes, None, HammingIndex(hashes, bits), correlation, workers.threads)
    rows, of = first_kept(search, workers, "compare with each other")
    copies.mark(rows, "near", of)
    crops.close()
    return copies
