"""Find images that are the same picture: exactly (hashes) or nearly (re-encoded, rescaled, slightly edited copies).

A near copy must pass two tests: the perceptual hashes of the whole photos differ by a few bits, found without comparing
all pairs (`ssfer.copies.hamming`), and the thumbnails agree (`ssfer.copies.registration`). Mirrored, rotated or cropped
copies of evaluation images are found by their aligned faces (`ssfer.copies.changed`). The number of false candidates
grows with the square of the number of photos: about one in 100,000 pairs of faces is within 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ssfer.copies.changed import AGREEMENT, BLOCK, aligned_thumbnail, changed_copies_in_blocks
from ssfer.copies.hamming import HammingIndex
from ssfer.copies.registration import same_picture
from ssfer.copies.thumbnails import SIDE, Thumbnails, decode_thumbnail, expected_maps, photo_maps
from ssfer.core.progress import Progress
from ssfer.formats.face_paths import of_face
from ssfer.formats.shards import PLACE, ShardReader

_EXACT = ("sha256", "pixel_sha256")
_PAIRS = 16_384  # compared at once: 2 x 16 MB of thumbnails
# (rows i (k,), rows j (k,)) -> thumbnails of i and of j, (k, SIDE, SIDE) each, and the expected maps (k, 3, 3).
Compare = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


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


def parse_hashes(column: pa.ChunkedArray) -> np.ndarray:
    """Return 16-digit hex hashes as (n,) uint64; missing ones become 0, which matches nothing."""
    return np.array([int(v, 16) if v else 0 for v in column.to_pylist()], dtype=np.uint64)


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


def near_copies(
    hashes: np.ndarray,
    others: np.ndarray | None,
    compare: Compare,
    bits: int,
    correlation: float,
    label: str,
    wanted: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows (i, j), sorted, of images that are nearly the same, in blocks.

    Args:
        hashes: (n,) uint64; 0 matches nothing.
        others: hashes of the other side; None: `hashes` itself, and only pairs with j < i.
        compare: returns the thumbnails and expected maps of a block of candidates.
        bits: largest distance of the hashes.
        correlation: see `ssfer.copies.registration.same_picture`.
        label: for the progress.
        wanted: returns for rows (i, j) of a block the bool mask of the candidates to compare; None: all.
    """
    index = HammingIndex(hashes if others is None else others, bits)
    with Progress(label, len(hashes)) as progress:
        for pairs in index.pairs(hashes, before=others is None):
            for start in range(0, len(pairs[0]), _PAIRS):
                i, j = (rows[start : start + _PAIRS] for rows in pairs)
                progress.advance(int(i[-1]) + 1 - progress.done)
                if wanted is not None:
                    some = wanted(i, j)
                    i, j = i[some], j[some]
                if len(i):
                    same = same_picture(*compare(i, j), correlation)
                    yield i[same], j[same]
        progress.advance(len(hashes) - progress.done)


class _Crops:
    """The stored crops of manifest rows, read from the shards when a hash makes a candidate."""

    def __init__(self, table: pa.Table, faces: Path) -> None:
        self._places = table.select(["source", *PLACE]).combine_chunks()
        self._shape = table.select(["matrix", "landmarks", "crop_recipe"]).combine_chunks()
        self._readers = {s: ShardReader(faces / s) for s in pc.unique(table.column("source")).to_pylist()}
        self.thumbnails = Thumbnails(table.num_rows, self._load)
        self.maps, self.sizes = photo_maps(table)
        stored = pc.and_(*(pc.is_valid(table.column(c)) for c in ("shard", "matrix"))).to_numpy()
        self.hashes = parse_hashes(table.column("phash"))
        self.hashes[~(stored & np.isfinite(self.maps).all(axis=(1, 2)))] = 0

    def _load(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        for place in self._places.take(pa.array(rows)).to_pylist():
            yield decode_thumbnail(self._readers[place.pop("source")].read(**place))

    def aligned(self, rows: np.ndarray) -> np.ndarray:
        """Return the aligned faces of some rows, (k, SIDE, SIDE) uint8."""
        places, shapes = (t.take(pa.array(rows)).to_pylist() for t in (self._places, self._shape))
        faces = np.zeros((len(rows), SIDE, SIDE), np.uint8)
        for face, place, shape in zip(faces, places, shapes, strict=True):
            data = self._readers[place.pop("source")].read(**place)
            resized = (shape["crop_recipe"] or "").startswith("resize-")
            face[:] = aligned_thumbnail(data, shape["matrix"], shape["landmarks"], not resized)
        return faces

    def compare(self, other: _Crops) -> Compare:
        return lambda i, j: (
            self.thumbnails.read(i),
            other.thumbnails.read(j),
            expected_maps(self.maps[i], self.sizes[i], other.maps[j], other.sizes[j]),
        )


def matches(table: pa.Table, others: pa.Table, faces: Path, bits: int, correlation: float) -> Copies:
    """Return which rows of `table` copy a row of `others`, and the first such row.

    Args:
        table: manifest rows with sample_id, source, sha256, pixel_sha256, phash, width, height, matrix, crop_size,
            landmarks, crop_recipe and `PLACE`.
        others: rows likewise.
        faces: folder that holds one folder of shards per source.
        bits: largest distance of the hashes, see `near_copies`.
        correlation: lowest correlation of the crops, see `near_copies`.
    """
    copies = Copies.none(table.num_rows)
    both = pa.concat_tables([t.select(["sample_id", *_EXACT]) for t in (others, table)])
    for column in _EXACT:
        of = first_equal(of_face(both.column(column), both.column("sample_id")))[others.num_rows :]
        rows = np.flatnonzero((copies.how == "") & (of >= 0) & (of < others.num_rows))
        copies.mark(rows, "exact", of[rows])
    crops, other_crops = _Crops(table, faces), _Crops(others, faces)
    hashes = np.where(copies.how == "", crops.hashes, np.uint64(0))
    compare, label = crops.compare(other_crops), "compare with evaluation images"
    for i, j in near_copies(
        hashes, other_crops.hashes, compare, bits, correlation, label, lambda i, _: copies.how[i] == ""
    ):
        copies.mark(i[::-1], "near", j[::-1])  # backwards: the first one is written last
    rows, there = np.flatnonzero((copies.how == "") & (crops.hashes != 0)), np.flatnonzero(other_crops.hashes)
    if len(rows) and len(there):
        with Progress("compare aligned faces", len(rows)) as progress:

            def blocks() -> Iterator[np.ndarray]:
                for start in range(0, len(rows), BLOCK):
                    yield crops.aligned(rows[start : start + BLOCK])
                    progress.advance(min(BLOCK, len(rows) - start))

            agreement = max(AGREEMENT, correlation)
            for row, other in changed_copies_in_blocks(blocks(), other_crops.aligned(there), agreement):
                copies.mark(rows[[row]], "near", there[[other]])
    return copies


def decontaminate(train_rows: pa.Table, eval_rows: pa.Table, faces: Path, bits: int, correlation: float) -> np.ndarray:
    """Return (n,) bool: True for the training rows that copy no evaluation image, exactly or nearly; see `matches`."""
    return matches(train_rows, eval_rows, faces, bits, correlation).how == ""


def repeated(table: pa.Table, faces: Path, bits: int, correlation: float) -> Copies:
    """Return which rows copy an earlier row that is kept.

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
    crops = _Crops(table, faces)
    hashes = np.where(copies.how == "", crops.hashes, np.uint64(0))
    compare, label = crops.compare(crops), "compare with each other"
    for later, earlier in near_copies(
        hashes, None, compare, bits, correlation, label, lambda _, j: copies.how[j] == ""
    ):
        for i, j in zip(later.tolist(), earlier.tolist(), strict=True):  # sorted, so earlier rows are already decided
            if not copies.how[i] and not copies.how[j]:
                copies.mark(np.array([i]), "near", np.array([j]))
    return copies
