"""Count images that are the same picture, over all data sets at once, by part (a usage of a data set).

Images with equal pixels become one "picture"; pictures that are nearly the same are linked. From both follows how many
images of one part are also in another, and how many of a part repeat an earlier one of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssfer.copies.crops import parse_hashes
from ssfer.copies.find import first_equal
from ssfer.copies.near import Compare, near_copies

LEVELS = ("same_file", "same_pixels", "near")


@dataclass(frozen=True)
class Overlap:
    """The images of one part that are also in another, or that repeat an earlier one of the same part.

    Attributes:
        rows: (k,) of these images.
        level: (k,) uint8, index into LEVELS: the strongest that holds.
    """

    rows: np.ndarray
    level: np.ndarray

    def counts(self) -> dict[str, int]:
        """Return the number of images by level."""
        return {name: int((self.level == i).sum()) for i, name in enumerate(LEVELS)}

    def total(self) -> int:
        """Return the number of images."""
        return len(self.rows)


class EqualImages:
    """Equal and nearly equal images among all rows.

    Args:
        rows: of all data sets, see `ssfer.doctor.scan.ROWS`.
        part: (n,) which part a row belongs to.
        compare, bits, correlation: see `ssfer.copies.near.near_copies`.

    Attributes:
        picture: (n,) the first row with the same pixels, a whole photo if there is one; -1: not decoded.
    """

    def __init__(self, rows: pa.Table, part: np.ndarray, compare: Compare, bits: int, correlation: float) -> None:
        self._part = part
        crop = pc.is_valid(rows.column("matrix")).to_numpy()
        pixels = pc.if_else(pc.equal(rows.column("status"), "ok"), rows.column("pixel_sha256"), None)
        self.picture = first_equal(pixels, last=crop)
        self._file = np.where(self.picture < 0, -1, first_equal(rows.column("sha256"), last=crop))
        hashes = parse_hashes(rows.column("phash"))
        hashes[self.picture != np.arange(len(hashes))] = 0
        found = near_copies(hashes, compare, bits, correlation, "comparing pictures")
        # Pairs of pictures, the earlier one second.
        self._near = np.concatenate([np.zeros((0, 2), np.int64), *(np.stack(pair, axis=1) for pair in found)])
        self._find_shared()

    def link(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Add pairs of rows that show nearly the same picture."""
        pictures = np.sort(self.picture[np.array(pairs, np.int64).reshape(-1, 2)], axis=1)[:, ::-1]
        self._near = np.concatenate([self._near, pictures[pictures[:, 0] > pictures[:, 1]]])
        self._find_shared()

    def _find_shared(self) -> None:
        # The rows whose picture occurs elsewhere: the only ones that the questions below have to look at.
        shared = np.bincount(self.picture[self.picture >= 0], minlength=len(self.picture)) > 1
        shared[self._near] = True
        self._shared = (self.picture >= 0) & shared[self.picture]

    def overlap(self, of: int, where: int) -> Overlap:
        """Return the images of part `of` that are also in part `where`; of one part those that repeat earlier ones."""
        if of == where:
            return self._repeats(of)
        rows, there = (np.flatnonzero((self._part == part) & self._shared) for part in (of, where))
        pictures, linked = np.zeros((2, len(self._part)), dtype=bool)
        pictures[self.picture[there]] = True
        for a, b in (self._near.T, self._near.T[::-1]):
            linked[a[pictures[b]]] = True
        same_file = np.isin(self._file[rows], self._file[there])
        return _by_level(rows, same_file, pictures[self.picture[rows]], linked[self.picture[rows]])

    def _repeats(self, part: int) -> Overlap:
        rows = np.flatnonzero((self._part == part) & self._shared)
        here, dropped = np.zeros((2, len(self._part)), dtype=bool)
        here[self.picture[rows]] = True
        # A picture is only compared with pictures that stay, so that a chain of slight changes keeps its far end.
        for later, earlier in self._near[here[self._near].all(axis=1)].tolist():
            dropped[later] |= not dropped[earlier]
        again = (_is_repeated(values[rows]) for values in (self._file, self.picture))
        return _by_level(rows, *again, dropped[self.picture[rows]])

    def partner(self, row: int, where: int) -> int | None:
        """Return a row of part `where` that is a copy of `row`; in the row's own part, another one."""
        there = self._part == where
        there[row] = False
        near = np.concatenate([self._near[self._near[:, i] == self.picture[row], 1 - i] for i in (0, 1)])
        for same in (self.picture == self.picture[row], np.isin(self.picture, near)):
            if len(found := np.flatnonzero(there & same)):
                return int(found[0])
        return None


def _is_repeated(values: np.ndarray) -> np.ndarray:
    result = np.ones(len(values), dtype=bool)
    result[np.unique(values, return_index=True)[1]] = False
    return result


def _by_level(rows: np.ndarray, *holds: np.ndarray) -> Overlap:
    """Return the rows for which some level holds; the levels come strongest first."""
    stacked = np.stack(holds)
    some = stacked.any(axis=0)
    return Overlap(rows[some], stacked.argmax(axis=0)[some].astype(np.uint8))
