"""Which images are the same picture, over all data sets at once.

Images with equal pixels become one "picture"; pictures that are nearly the same are linked. From both follows how many
images of one part (a data set's usage) are also in another, and how many of a part repeat an earlier one of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ssfer.copies.hamming import HammingIndex
from ssfer.copies.scan import Columns, Pictures
from ssfer.copies.thumbnails import crop_like, likeness
from ssfer.core.progress import Progress

# Pairs of pictures compared at once: 2 x 4 MB; each takes about a millisecond.
_PAIRS = 4096
ReadPhoto = Callable[[int], Image.Image | None]
LEVELS = ("same_file", "same_pixels", "near")


@dataclass(frozen=True)
class Overlap:
    """The images of one part that are also in another, or that repeat an earlier one of the same part."""

    rows: np.ndarray  # (k,) of these images
    level: np.ndarray  # (k,) uint8, index into LEVELS: the strongest that holds

    def counts(self) -> dict[str, int]:
        """Return the number of images by level."""
        return {name: int((self.level == i).sum()) for i, name in enumerate(LEVELS)}

    def total(self) -> int:
        """Return the number of images."""
        return len(self.rows)


class Copies:
    """Equal and nearly equal images among all rows.

    Args:
        columns: of all data sets, one behind the other.
        part: (n,) which part a row belongs to.
    """

    def __init__(self, columns: Columns, part: np.ndarray) -> None:
        self.part = part
        crops = np.zeros(len(part), dtype=bool)
        if columns.matrix is not None:
            crops = ~np.isnan(columns.matrix[:, 0])
        # A picture's first row stands for it: a whole photo, if there is one.
        self.picture, self.first = _number(columns.pixels, crops)  # (n,) -1: not decoded; (pictures,)
        self._file, _ = _number(columns.sha, crops)
        self._file[self.picture < 0] = -1
        self.near = np.zeros((0, 2), np.int64)  # pairs of picture numbers, the earlier one second
        self._set_shared()

    def _set_shared(self) -> None:
        """Note the rows whose picture occurs elsewhere: the only ones that the questions below have to look at."""
        shared = np.bincount(self.picture[self.picture >= 0], minlength=len(self.first)) > 1
        shared[self.near.ravel()] = True
        self._shared = self.picture >= 0
        self._shared[self._shared] = shared[self.picture[self._shared]]

    def overlap(self, of: int, where: int) -> Overlap:
        """Return the images of part `of` that are also in part `where`."""
        if of == where:
            return self._repeats(of)
        rows = np.flatnonzero((self.part == of) & self._shared)
        there = np.flatnonzero((self.part == where) & self._shared)
        pictures = np.zeros(len(self.first), dtype=bool)
        pictures[self.picture[there]] = True
        linked = np.zeros(len(self.first), dtype=bool)
        for a, b in (self.near.T, self.near.T[::-1]):
            linked[a[pictures[b]]] = True
        same_file = np.isin(self._file[rows], self._file[there])
        return _by_level(rows, same_file, pictures[self.picture[rows]], linked[self.picture[rows]])

    def _repeats(self, part: int) -> Overlap:
        rows = np.flatnonzero((self.part == part) & self._shared)
        new_file, new_picture = _is_first(self._file[rows]), _is_first(self.picture[rows])
        here = np.zeros(len(self.first), dtype=bool)
        here[self.picture[rows]] = True
        # A picture is compared with those that stay only: a chain of slight changes does not erase its far end.
        dropped = np.zeros(len(self.first), dtype=bool)
        for later, earlier in self.near[here[self.near].all(axis=1)].tolist():
            dropped[later] |= not dropped[earlier]
        return _by_level(rows, ~new_file, ~new_picture, dropped[self.picture[rows]])

    def partner(self, row: int, where: int) -> int | None:
        """Return a row of part `where` that is a copy of `row`; in the row's own part, another one."""
        there = self.part == where
        there[row] = False
        same = np.flatnonzero(there & (self.picture == self.picture[row]))
        if len(same):
            return int(same[0])
        near = np.concatenate([self.near[self.near[:, i] == self.picture[row], 1 - i] for i in (0, 1)])
        similar = np.flatnonzero(there & np.isin(self.picture, near))
        return int(similar[0]) if len(similar) else None

    def find_near(
        self,
        columns: Columns,
        pictures: Pictures,
        bits: int,
        correlation: float,
        load: Callable[[np.ndarray], None],
        photo: ReadPhoto,
    ) -> None:
        """Find the pairs of nearly equal pictures.

        Args:
            columns, pictures: rows as everywhere.
            bits: largest distance of the perceptual hashes.
            correlation: least likeness of the small pictures.
            load: called with rows whose pictures are about to be read.
            photo: reads the whole photo of a row again.
        """
        hashes = columns.phash[self.first]
        found = [self.near]
        with Progress("comparing pictures", len(hashes)) as progress:
            for i, j in _in_blocks(HammingIndex(hashes, bits).pairs(hashes, before=True)):
                a, b = self.first[i], self.first[j]
                load(np.unique(np.concatenate([a, b])))
                sure = _likeness(a, b, columns, pictures, photo) >= correlation
                found.append(np.stack([i[sure], j[sure]], axis=1))
                progress.advance(int(i[-1]) - progress.done)
            progress.advance(len(hashes) - progress.done)
        self.near = np.concatenate(found)
        self._set_shared()


def _number(digests: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a number for each distinct digest by row, -1 for zeros, and each number's first row.

    Args:
        digests: (n, 32) uint8.
        last: (n,) bool, rows that are taken as a number's first row only if there is no other.
    """
    rows = np.flatnonzero(digests.any(axis=1))
    rows = rows[np.argsort(last[rows], kind="stable")]
    keys = np.ascontiguousarray(digests[rows]).view(np.dtype((np.void, digests.shape[1]))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)  # np.unique sorts by value; numbers shall follow the rows
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    numbers = np.full(len(digests), -1, np.int64)
    numbers[rows] = rank[inverse.ravel()]
    return numbers, rows[first[order]]


def _is_first(values: np.ndarray) -> np.ndarray:
    result = np.zeros(len(values), dtype=bool)
    result[np.unique(values, return_index=True)[1]] = True
    return result


def _by_level(rows: np.ndarray, *holds: np.ndarray) -> Overlap:
    """Return the rows for which some level holds; the levels come strongest first."""
    stacked = np.stack(holds)
    some = stacked.any(axis=0)
    return Overlap(rows[some], stacked.argmax(axis=0)[some].astype(np.uint8))


def _in_blocks(pairs: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for i, j in pairs:
        for start in range(0, len(i), _PAIRS):
            yield i[start : start + _PAIRS], j[start : start + _PAIRS]


def _likeness(a: np.ndarray, b: np.ndarray, columns: Columns, pictures: Pictures, photo: ReadPhoto) -> np.ndarray:
    """Return the likeness of the pictures of rows `a` and `b`, (k,) each."""
    seen = [pictures.read(a), pictures.read(b)]
    pairs = np.stack([a, b], axis=1)
    sizes = columns.size[pairs]
    if columns.matrix is None:
        matrices = np.full((len(pairs), 2, 2, 3), np.nan)
    else:
        matrices = columns.matrix[pairs].reshape(-1, 2, 2, 3)
        whole = np.isnan(matrices[:, :, 0, 0])
        for k in np.flatnonzero(whole[:, 0] != whole[:, 1]).tolist():
            side = int(whole[k, 1])  # of the whole photo: cut the other one's crop out of it
            image = photo(int(pairs[k, side]))
            if image is not None:
                cut = crop_like(image, matrices[k, 1 - side], sizes[k, 1 - side])
                seen[side][k], matrices[k, side] = cut
    return np.array([likeness(seen[0][k], seen[1][k], matrices[k], sizes[k]) for k in range(len(pairs))])


def join(parts: Sequence[Columns]) -> Columns:
    """Return the columns of several data sets one behind the other."""
    joined = Columns(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("status", "sha", "pixels", "phash", "size"))
    )
    if any(p.matrix is not None for p in parts):
        whole = [p.matrix if p.matrix is not None else np.full((len(p.status), 6), np.nan) for p in parts]
        joined.matrix = np.concatenate(whole)
    return joined
