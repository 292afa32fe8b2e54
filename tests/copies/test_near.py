"""The first row that stays, whatever the workers know when they compare."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from ssfer.copies import near
from ssfer.copies.crops import Crops
from ssfer.copies.find import matches, repeated
from ssfer.copies.hamming import HammingIndex
from ssfer.copies.near import NearSearch, first_kept
from ssfer.core.workers import Here, Workers
from tests.support.face_sets import copies, photo, write_faces
from tests.support.other_workers import Scattered


@dataclass(frozen=True)
class Related(NearSearch):
    """Rows of which a matrix says whether they are the same picture; all are candidates."""

    alike: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))

    def same(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return self.alike[i, j]


def related(alike: np.ndarray, tmp_path: Path) -> Related:
    table = write_faces(tmp_path / "a", [(photo(0), {})])
    hashes = np.arange(1, len(alike) + 1, dtype=np.uint64)
    return Related(Crops(table, tmp_path), hashes, None, HammingIndex(hashes, 8), 0.85, 1, alike)


def one_by_one(alike: np.ndarray) -> dict[int, int]:
    """Return what each row copies, decided in order."""
    of: dict[int, int] = {}
    for i in range(len(alike)):
        first = next((j for j in range(i) if alike[i, j] and j not in of), None)
        if first is not None:
            of[i] = first
    return of


def found(search: NearSearch, workers: Workers) -> dict[int, int]:
    return {int(i): int(j) for i, j in zip(*first_kept(search, workers, "compare"), strict=True)}


@pytest.mark.parametrize("density", [0.02, 0.1, 0.4])
def test_the_order_of_the_work_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, density: float) -> None:
    monkeypatch.setattr(near, "_ROWS", (3, 1))
    monkeypatch.setattr(near, "_PAIRS", 5)
    for seed in range(20):
        alike = np.random.default_rng(seed).random((40, 40)) < density
        search, expected = related(alike | alike.T, tmp_path), one_by_one(alike | alike.T)
        assert found(search, Here()) == expected
        assert found(search, Scattered(seed, 1 + seed % 7, number=3)) == expected


def test_a_row_that_was_taken_for_gone_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 1 copies row 0; row 2 resembles row 1 only, and row 3 row 2, which a worker took for gone."""
    monkeypatch.setattr(near, "_ROWS", (1, 1))
    alike = np.zeros((4, 4), bool)
    alike[[1, 2, 3], [0, 1, 2]] = True
    assert found(related(alike, tmp_path), Scattered(0, window=3)) == {1: 0, 3: 2}


def test_looking_again_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr(near, "_ROWS", (1, 1))
    monkeypatch.setattr(near, "_PAIRS", 7)
    monkeypatch.setattr(Related, "same", lambda self, i, j: compared.append(len(i)) or self.alike[i, j])
    alike = np.zeros((60, 60), bool)
    alike[[1, 2], [0, 1]] = True
    alike[3:, 2] = True
    assert found(related(alike, tmp_path), Scattered(0, window=3)) == {1: 0, **dict.fromkeys(range(3, 60), 2)}
    assert max(compared) == 7


@pytest.mark.parametrize("rows", [3, 40])
def test_one_worker_never_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(near, "_ROWS", (rows, 1))
    monkeypatch.setattr(HammingIndex, "after", None)
    alike = np.random.default_rng(1).random((40, 40)) < 0.1
    assert found(related(alike, tmp_path), Here()) == one_by_one(alike)


def test_a_row_like_a_thousand_others_is_compared_with_those_that_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    monkeypatch.setattr(near, "_PAIRS", 50)
    monkeypatch.setattr(Related, "same", lambda self, i, j: compared.append(len(i)) or self.alike[i, j])
    search = related(np.ones((200, 200), bool), tmp_path)
    assert found(search, Here()) == dict.fromkeys(range(1, 200), 0)
    assert sum(compared) < 1000, "and not with all 19,900"
    compared.clear()
    other = replace(search, others=search.crops)
    assert {(int(i[0]), int(j[0])) for i, j in other.pairs(Here(), "compare")} == {(0, 0)}
    assert sum(compared) == 200 * 50, "of 40,000 candidates the first block of each row"


def test_crops_are_read_wherever_the_work_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "_ROWS", (4, 1))
    originals = [photo(i) for i in range(6)]
    left = write_faces(tmp_path / "a", [(p, {}) for p in originals])
    right = write_faces(tmp_path / "b", [(p, {}) for p in (*copies(originals[3]), photo(9), copies(photo(9))[0])])
    for workers in (Here(), Scattered()):
        found = matches(right, left, tmp_path, 8, 0.85, workers)
        assert found.of.tolist() == [3, 3, 3, 3, -1, -1]
        assert repeated(right, tmp_path, 8, 0.85, workers).of.tolist() == [-1, 0, 0, 0, -1, 4]
