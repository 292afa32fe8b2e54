"""Copies are found and distinct pictures left alone, on small sources of faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ssfer.copies import near
from ssfer.copies.find import decontaminate, first_equal, matches, repeated
from ssfer.core.images import phash
from tests.support.face_sets import copies, photo, write_faces

LIMITS = (8, 0.85)


def test_copies_are_found_and_others_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "_PAIRS", 3)  # blocks change nothing
    originals = [photo(i) for i in range(20)]
    left = write_faces(tmp_path / "a", [(p, {}) for p in originals])
    planted = [copy for i in (3, 4) for copy in copies(originals[i])]
    distinct = [photo(100 + i) for i in range(30)]
    right = write_faces(tmp_path / "b", [(p, {}) for p in (*planted, *distinct, originals[7])])
    found = matches(right, left, tmp_path, *LIMITS)
    assert found.of.tolist() == [3] * 4 + [4] * 4 + [-1] * 30 + [7]
    assert found.how.tolist() == ["near"] * len(planted) + [""] * 30 + ["exact"]
    assert np.flatnonzero(~decontaminate(left, right, tmp_path, *LIMITS)).tolist() == [3, 4, 7]
    assert matches(left, right, tmp_path, *LIMITS).of[[3, 4, 7]].tolist() == [0, 4, 38], "the first of several"


def test_same_hash_is_not_enough(tmp_path: Path) -> None:
    """Two pictures with equal hashes but different crops are no copies."""
    value = phash(photo(0))
    left = write_faces(tmp_path / "a", [(photo(0), {"phash": value})])
    right = write_faces(tmp_path / "b", [(photo(1), {"phash": value}), (copies(photo(0))[0], {"phash": value})])
    assert matches(right, left, tmp_path, *LIMITS).how.tolist() == ["", "near"]
    assert matches(right, left, tmp_path, 8, 1.0).how.tolist() == ["", ""]


def test_exact_copy_is_found_without_a_stored_crop_and_a_near_one_is_not(tmp_path: Path) -> None:
    left = write_faces(tmp_path / "a", [(photo(0), {"sha256": "x", "shard": None}), (photo(1), {"shard": None})])
    rows = [(photo(5), {"sha256": "x"}), (photo(1), {}), (copies(photo(1))[0], {}), (photo(1), {"matrix": None})]
    right = write_faces(tmp_path / "b", rows)
    assert matches(right, left, tmp_path, *LIMITS).how.tolist() == ["exact", "exact", "", "exact"]
    assert repeated(right, tmp_path, *LIMITS).how.tolist() == ["", "", "near", "exact"]


def test_faces_of_one_photo_are_no_copies_of_each_other(tmp_path: Path) -> None:
    """They share file and pixels; only the crop differs."""
    same = {"sha256": "x", "pixel_sha256": "y", "phash": phash(photo(0))}
    rows = [(photo(i), {**same, "sample_id": f"a/1.jpg#xywh={40 * i},20,30,40"}) for i in range(2)]
    table = write_faces(tmp_path / "a", rows)
    assert repeated(table, tmp_path, *LIMITS).how.tolist() == ["", ""]
    assert matches(table.slice(0, 1), table.slice(1), tmp_path, *LIMITS).how.tolist() == [""]
    assert matches(table.slice(0, 1), table, tmp_path, *LIMITS).how.tolist() == ["exact"]


def test_empty_tables_are_fine(tmp_path: Path) -> None:
    table = write_faces(tmp_path / "a", [(photo(0), {})])
    empty = table.slice(0, 0)
    assert matches(table, empty, tmp_path, *LIMITS).how.tolist() == [""]
    assert matches(empty, table, tmp_path, *LIMITS).how.tolist() == []
    assert repeated(empty, tmp_path, *LIMITS).how.tolist() == []


def test_first_of_equal_images_stays(tmp_path: Path) -> None:
    a, b = photo(0), photo(1)
    same = {"sha256": "same"}
    table = write_faces(tmp_path / "a", [(a, {}), (b, same), (copies(a)[0], {}), (a, {}), (photo(2), same)])
    found = repeated(table, tmp_path, *LIMITS)
    assert found.how.tolist() == ["", "", "near", "exact", "exact"]
    assert found.of.tolist() == [-1, -1, 0, 0, 1]


def test_chain_of_changes_keeps_its_far_end(tmp_path: Path) -> None:
    """The second is a copy of the first and goes; the third resembles the second only, so it stays."""
    photos = [
        (photo(0), {"pixel_sha256": str(k), "phash": f"{0xF0F0 | ((1 << 8 * k) - 1) << 16:016x}"}) for k in range(3)
    ]
    table = write_faces(tmp_path / "a", photos)
    assert repeated(table, tmp_path, *LIMITS).how.tolist() == ["", "near", ""]


def test_first_equal_row_and_rows_that_come_last() -> None:
    values = pa.chunked_array([["b", None, "a"], ["b", "a", None, "c"]])
    assert first_equal(values).tolist() == [0, -1, 2, 0, 2, -1, 6]
    last = np.array([True, False, True, False, True, False, True])
    assert first_equal(values, last).tolist() == [3, -1, 2, 3, 2, -1, 6]
    assert first_equal(values.slice(0, 0)).tolist() == []
