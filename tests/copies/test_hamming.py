"""The banded index: complete, each pair once, bounded, whatever the number of rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ssfer.copies import hamming
from ssfer.copies.crops import parse_hashes
from ssfer.copies.hamming import MAX_EQUAL, HammingIndex, plan


def near_pairs(left: np.ndarray, right: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs at once."""
    i, j = zip(*HammingIndex(right, bits).pairs(left), strict=True)
    return np.concatenate(i), np.concatenate(j)


def planted(bits: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random hashes; some of `right` are within or just beyond `bits` of one of `left`, the flips anywhere."""
    rng = np.random.default_rng(seed)
    left = rng.integers(1, 2**64, 200, dtype=np.uint64)
    right = rng.integers(1, 2**64, 150, dtype=np.uint64)
    for j in range(0, 150, 2):  # up to 14 flipped bits, anywhere or all in one place
        places = rng.choice(16 if j % 4 else 64, int(rng.integers(0, 15)), replace=False)
        right[j] = left[j] ^ np.uint64(sum(1 << int(p) for p in places))
    for j in range(1, 40, 2):  # the hard case: the flips are spread evenly over the bands
        right[j] = left[j] ^ np.uint64(sum(1 << (int(p) % 64) for p in np.arange(bits) * 64 // max(bits, 1) + j))
    return left, right


@pytest.mark.parametrize(
    ("bits", "rows"),  # the plan differs with the rows to be expected, the answer must not
    [(0, 10), (1, 10), (3, 10), (4, 10), (8, 10), (12, 10), (4, 60_000), (8, 60_000), (8, 1_200_000)],
)
def test_index_finds_exactly_the_near_pairs(bits: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming, "plan", lambda _, max_bits: plan(rows, max_bits))
    left, right = planted(bits, bits)
    distance = np.bitwise_count(left[:, None] ^ right[None])
    expected = np.argwhere(distance <= bits)
    np.testing.assert_array_equal(np.stack(near_pairs(left, right, bits), axis=1), expected)
    assert len(expected) > 19


@pytest.mark.parametrize("bits", [0, 1, 5, 8, 16])
def test_bands_obey_the_pigeonhole_and_grow_with_the_rows(bits: int) -> None:
    widths = []
    for rows in (2, 12_000, 120_000, 1_200_000, 10_000_000):
        bands = plan(rows, bits)
        assert sum(band.radius + 1 for band in bands) == bits + 1
        places = [p for band in bands for p in range(band.shift, band.shift + band.width)]
        assert len(set(places)) == len(places)
        assert set(places) <= set(range(64))
        widths.append(min(band.width for band in bands))
    assert widths == sorted(widths)
    assert bits != 8 or widths[-1] >= 21  # 10 million rows over 2^21 buckets: five rows to compare with, not 150


def test_missing_and_flat_hashes_match_nothing() -> None:
    hashes = parse_hashes(pa.chunked_array([[None, "0" * 16, "8000000000000001", "8000000000000001"]]))
    assert hashes[2] == 0x8000000000000001
    i, j = near_pairs(hashes, hashes, 4)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == [(2, 2), (2, 3), (3, 2), (3, 3)]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = planted(8, 5)
    whole = near_pairs(left, right, 8)
    monkeypatch.setattr(hamming, "_ROWS", 7)
    monkeypatch.setattr(hamming, "_BLOCK", 3)
    blocks = list(HammingIndex(right, 8).pairs(left))
    assert len(blocks) > 5
    np.testing.assert_array_equal(np.concatenate([b[0] for b in blocks]), whole[0])
    np.testing.assert_array_equal(np.concatenate([b[1] for b in blocks]), whole[1])
    assert all(len(set((b[0] // 7).tolist())) == 1 for b in blocks), "all pairs of a row come together"


def test_a_side_with_itself_gives_each_pair_once() -> None:
    rng = np.random.default_rng(1)
    hashes = rng.integers(1, 2**64, 300, dtype=np.uint64)
    hashes[200:260] = hashes[100:160] ^ np.uint64(0b10011)
    blocks = HammingIndex(hashes, 8).pairs(hashes, before=True)
    found = [(int(i), int(j)) for block in blocks for i, j in zip(*block, strict=True)]
    assert found == [(200 + k, 100 + k) for k in range(60)]


def test_rows_after_one_are_those_of_its_pairs() -> None:
    rng = np.random.default_rng(2)
    hashes = rng.integers(0, 2**10, 300, dtype=np.uint64)
    hashes[100:200] = 7  # more than the index keeps
    index = HammingIndex(hashes, 3)
    pairs = [(i, j) for block in index.pairs(hashes, before=True) for i, j in zip(*block, strict=True)]
    for row in range(300):
        assert index.after(row).tolist() == [i for i, j in pairs if j == row]


def test_rows_from_one_to_another_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = planted(8, 5)
    i, j = near_pairs(left, right, 8)
    monkeypatch.setattr(hamming, "_ROWS", 7)
    blocks = list(HammingIndex(right, 8).pairs(left, first=50, stop=120))
    some = (i >= 50) & (i < 120)
    np.testing.assert_array_equal(np.concatenate([b[0] for b in blocks]), i[some])
    np.testing.assert_array_equal(np.concatenate([b[1] for b in blocks]), j[some])


def test_a_flood_of_one_hash_stays_bounded() -> None:
    """A placeholder picture that occurs a thousand times makes 64 pairs a row, not a thousand."""
    hashes = np.full(1000, 12345, dtype=np.uint64)
    hashes[900] ^= np.uint64(1)
    i, j = next(HammingIndex(hashes, 4).pairs(hashes, before=True))
    counts = np.bincount(i, minlength=1000)
    assert counts[:5].tolist() == [0, 1, 2, 3, 4]
    assert counts[100:900].tolist() == [MAX_EQUAL] * 800
    assert counts[900] == MAX_EQUAL
    assert counts[950] == MAX_EQUAL + 1  # the one that differs is compared, too
    assert set(j.tolist()) == {*range(MAX_EQUAL), 900}
