"""Near copies: rows whose hashes differ by a few bits and whose thumbnails agree.

A set that is compared with itself keeps the first of several near copies, and rows are compared only with rows that
stay. Blocks of rows are worked on at once, by workers that do not yet know the fate of all earlier rows: a row that
copies one which stays, as far as they know, they take for gone. `first_kept` then decides in the order of the rows, and
looks again for the copies of a row that was taken for gone and stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

from ssfer.copies.crops import Crops
from ssfer.copies.hamming import HammingIndex
from ssfer.copies.registration import same_picture
from ssfer.copies.thumbnails import expected_maps
from ssfer.core.progress import Progress
from ssfer.core.workers import Workers

_PAIRS = 16_384  # compared at once: 2 x 16 MB of thumbnails
_ROWS = 65_536, 4_096  # of a task: for one worker, and the fewest for many
# (rows i (k,), rows j (k,)) -> thumbnails of i and of j, (k, SIDE, SIDE) each, and the expected maps (k, 3, 3).
Compare = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def near_copies(
    hashes: np.ndarray, compare: Compare, bits: int, correlation: float, label: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows (i, j) of images that are nearly the same, j < i, sorted, in blocks.

    Args:
        hashes: (n,) uint64; 0 matches nothing.
        compare: returns the thumbnails and expected maps of a block of candidates.
        bits: largest distance of the hashes.
        correlation: see `ssfer.copies.registration.same_picture`.
        label: for the progress.
    """
    with Progress(label, len(hashes)) as progress:
        for i, j in _in_blocks(HammingIndex(hashes, bits).pairs(hashes, before=True)):
            progress.advance(int(i[-1]) + 1 - progress.done)
            same = same_picture(*compare(i, j), correlation)
            yield i[same], j[same]
        progress.advance(len(hashes) - progress.done)


@dataclass(frozen=True)
class NearSearch:
    """What all tasks of a search need; picklable.

    Attributes:
        crops: of the rows whose copies are looked for.
        hashes: (n,) uint64 of these rows; 0 matches nothing.
        others: crops of the rows that they may copy; None: the same rows, and only earlier ones.
        index: of the hashes of those rows.
        correlation: see `ssfer.copies.registration.same_picture`.
        threads: that compare.
    """

    crops: Crops
    hashes: np.ndarray
    others: Crops | None
    index: HammingIndex
    correlation: float
    threads: int

    def same(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return (k,) bool: rows i are nearly the same as rows j (k,)."""
        if not len(i):
            return np.zeros(0, bool)
        others = self.others or self.crops
        over = expected_maps(*self.crops.maps(i), *others.maps(j))
        return same_picture(self.crops.thumbnails(i), others.thumbnails(j), over, self.correlation, self.threads)

    def pairs(self, workers: Workers, label: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows (i, j) that are nearly the same, in blocks; those of each i are sorted.

        Of a set that is compared with itself, some pairs are left out whose j is itself a copy of a row j' as in a pair
        (j, j') that is yielded.
        """
        rows = max(_ROWS[0] // workers.number, _ROWS[1])
        gone = np.zeros(len(self.hashes), bool)

        def tasks() -> Iterator[Block]:
            for start in range(0, len(gone), rows):
                stop = min(start + rows, len(gone))
                yield Block(start, stop, None if self.others else np.packbits(gone[:stop]))

        with Progress(label, len(gone)) as progress:
            for task, (i, j) in workers.map(near_in_block, self, tasks()):
                gone[i] = True
                progress.advance(task.stop - task.start)
                yield i, j


@dataclass(frozen=True)
class Block:
    """One task: rows `start` to `stop`, the bits of the rows up to there that are taken for gone; None: none goes."""

    start: int
    stop: int
    gone: np.ndarray | None


def near_in_block(search: NearSearch, block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (i, j), sorted, of the block's rows i that are nearly the same as j, see `NearSearch.pairs`."""
    n, alone = block.stop, block.gone is None
    gone = np.zeros(n, bool) if block.gone is None else np.unpackbits(block.gone, count=n).astype(bool)
    found: list[tuple[int, int]] = []
    for i, j in _in_blocks(search.index.pairs(search.hashes, not alone, block.start, block.stop)):
        left = ~gone[i] if alone else ~gone[j]  # one copied row of another set is enough
        i, j = i[left], j[left]
        same = search.same(i, j)
        for pair in zip(i[same].tolist(), j[same].tolist(), strict=True):
            if alone or not gone[pair[1]]:
                gone[pair[0]] = True
                found.append(pair)
    i, j = np.array(found, np.int64).reshape(-1, 2).T
    return i, j


def first_kept(search: NearSearch, workers: Workers, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (i, j): i is nearly the same as the earlier row j, the first such row that stays."""
    of: dict[int, list[int]] = defaultdict(list)
    for i, j in search.pairs(workers, label):
        for row, other in zip(i.tolist(), j.tolist(), strict=True):
            of[row].append(other)
    left, first = list(of), {}
    heapify(left)
    while left:
        row = heappop(left)
        kept = [other for other in of[row] if other not in first]
        if kept:
            first[row] = min(kept)
            continue
        later = search.index.after(row)  # the row was taken for gone
        for i, j in _in_blocks(iter([(later, np.full(len(later), row))])):
            for again in i[search.same(i, j)].tolist():
                if again not in of:
                    heappush(left, again)
                of[again].append(row)
    return np.array(list(first), np.int64), np.array(list(first.values()), np.int64)


def _in_blocks(pairs: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for i, j in pairs:
        for start in range(0, len(i), _PAIRS):
            yield i[start : start + _PAIRS], j[start : start + _PAIRS]
