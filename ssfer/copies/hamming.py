"""All pairs of 64-bit hashes that differ in few bits, without comparing all pairs and in bounded memory.

Pigeonhole: cut the 64 bits into bands and give band b a radius r_b with sum(r_b + 1) = d + 1. Two hashes within d bits
of each other are then within r_b bits in at least one band, so every hash is looked up under all flips of up to r_b
bits of every band. Few wide bands have small buckets and many flips, many narrow ones the opposite; `plan` takes the
cheapest for the number of rows. A pair is reported only by the first band that finds it, so no pairs are stored.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

# Rows looked up together, and candidate pairs compared at once: they bound the memory.
_ROWS, _BLOCK = 65_536, 2_000_000
# No band is wider: its table of bucket starts has 2^bits entries.
_MAX_WIDTH = 24
# Most rows of the same hash in the index. n placeholder pictures with one hash would give n^2 pairs; so a row is
# compared with the first ones only.
MAX_EQUAL = 64


@dataclass(frozen=True)
class Band:
    """`width` bits from bit `shift` on, searched up to `radius` flipped bits."""

    shift: int
    width: int
    radius: int

    def keys(self, hashes: np.ndarray) -> np.ndarray:
        """Return the band's bits of (n,) uint64 hashes as (n,) int64."""
        return ((hashes >> np.uint64(self.shift)) & np.uint64((1 << self.width) - 1)).astype(np.int64)

    def flips(self) -> list[int]:
        """Return the masks with at most `radius` bits set."""
        return [
            sum(1 << b for b in bits) for r in range(self.radius + 1) for bits in combinations(range(self.width), r)
        ]


def plan(rows: int, max_bits: int) -> list[Band]:
    """Return the bands that find all pairs within `max_bits` bits among `rows` rows at the least cost.

    The cost of a row in a band is one lookup per flip, and one comparison per row of each bucket looked into.
    """
    best: tuple[float, list[Band]] | None = None
    for count in range(-(-64 // _MAX_WIDTH), max(max_bits + 1, 3) + 1):
        bands, shift = [], 0
        for b in range(count):
            width = 64 // count + (b < 64 % count)
            radius = (max_bits + 1) // count + (b < (max_bits + 1) % count) - 1
            bands.append(Band(shift, width, radius))
            shift += width
        bands = [band for band in bands if band.radius >= 0]
        flips = [sum(comb(band.width, r) for r in range(band.radius + 1)) for band in bands]
        cost = sum(n * (1 + rows / 2**band.width) for n, band in zip(flips, bands, strict=True))
        if best is None or cost < best[0]:
            best = cost, bands
    assert best is not None
    return best[1]


class HammingIndex:
    """The rows of one side, sorted by the bits of each band, 4 bytes per row and band; the hash 0 is not in it.

    Args:
        hashes: (n,) uint64; 0 stands for flat and missing pictures, which match nothing.
        max_bits: largest distance of pairs to find.
    """

    def __init__(self, hashes: np.ndarray, max_bits: int) -> None:
        self.max_bits, self._hashes = max_bits, hashes
        rows = _first_of_equal(hashes)
        self.bands = plan(len(rows), max_bits)
        self._tables = [self._table(rows, band) for band in self.bands]

    def _table(self, rows: np.ndarray, band: Band) -> tuple[np.ndarray, np.ndarray]:
        keys = band.keys(self._hashes[rows])
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange(2**band.width + 1)).astype(np.uint32)
        return rows[order].astype(np.uint32), starts

    def pairs(
        self, hashes: np.ndarray, before: bool = False, first: int = 0, stop: int | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (i, j) int64 arrays: hashes[i] and index row j are within max_bits; sorted, each pair once.

        It yields once per block of rows of `hashes`, in order, so all pairs of a row are in the same block.

        Args:
            hashes: (m,) uint64; zeros are skipped.
            before: only pairs with j < i, for hashes compared with themselves.
            first: the first i to look for.
            stop: the one behind the last i; None: all the others.
        """
        stop = len(hashes) if stop is None else stop
        for start in range(first, stop, _ROWS):
            block = hashes[start : min(start + _ROWS, stop)]
            rows = np.flatnonzero(block)
            found = [pair for b in range(len(self.bands)) for pair in self._search(block, rows, b, start, before)]
            if found:
                pairs = np.concatenate(found, axis=1)
                pairs = pairs[:, np.lexsort(pairs[::-1])]
                yield pairs[0], pairs[1]

    def after(self, row: int) -> np.ndarray:
        """Return the i of all pairs (i, row) of the hashes with themselves, sorted; it looks at every later hash."""
        if np.count_nonzero(self._hashes[:row] == self._hashes[row]) >= MAX_EQUAL:  # the index does not have the row
            return np.zeros(0, np.int64)
        later = self._hashes[row + 1 :]
        near = np.bitwise_count(later ^ self._hashes[row]) <= self.max_bits
        return np.flatnonzero(near & (later != 0)) + row + 1

    def _search(self, block: np.ndarray, rows: np.ndarray, b: int, base: int, before: bool) -> Iterator[np.ndarray]:
        band, (order, starts) = self.bands[b], self._tables[b]
        keys = band.keys(block[rows])
        for flip in band.flips():
            bucket = keys ^ flip
            first = starts[bucket].astype(np.int64)
            counts = starts[bucket + 1] - first
            some = np.flatnonzero(counts)
            for i, position in _expand(rows[some], first[some], counts[some]):
                j = order[position].astype(np.int64)
                near = np.bitwise_count(block[i] ^ self._hashes[j]) <= self.max_bits
                if before:
                    near &= j < i + base
                i, j = i[near], j[near]
                for earlier in self.bands[:b]:
                    new = np.bitwise_count(earlier.keys(block[i] ^ self._hashes[j])) > earlier.radius
                    i, j = i[new], j[new]
                if len(i):
                    yield np.stack([i + base, j])


def _first_of_equal(hashes: np.ndarray) -> np.ndarray:
    """Return the sorted rows to index: no zeros, the first MAX_EQUAL rows of each value."""
    rows = np.flatnonzero(hashes)
    order = np.argsort(hashes[rows], kind="stable")
    values = hashes[rows[order]]
    new = np.ones(len(values), dtype=bool)
    new[1:] = values[1:] != values[:-1]
    start = np.maximum.accumulate(np.where(new, np.arange(len(values)), 0))
    return np.sort(rows[order[np.arange(len(values)) - start < MAX_EQUAL]])


def _expand(rows: np.ndarray, first: np.ndarray, counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (row, position) for every position first .. first + count - 1 of every row, in blocks of bounded size."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(rows):
        base = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, base + _BLOCK, side="right")))
        block = counts[start:stop]
        within = np.arange(block.sum()) - np.repeat(np.cumsum(block) - block, block)
        yield np.repeat(rows[start:stop], block), np.repeat(first[start:stop], block) + within
        start = stop
