"""Small pictures: from files, kept in a temporary file, and the maps from photos to them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssfer.copies.thumbnails import SIDE, Thumbnails, decode_thumbnail, expected_maps, photo_maps, thumbnail
from ssfer.core.images import encode_jpeg
from tests.support.face_sets import photo, write_faces


def test_pictures_are_loaded_once_and_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    loaded: list[int] = []

    def load(rows: np.ndarray) -> Iterator[np.ndarray]:
        for row in rows.tolist():
            loaded.append(row)
            yield np.full((SIDE, SIDE), row, np.uint8)

    pictures = Thumbnails(6, load)
    pictures.write(3, np.stack([np.full((SIDE, SIDE), value, np.uint8) for value in (70, 80)]))
    found = pictures.read(np.array([5, 0, 3, 5, 4]))
    assert (found.shape, found.dtype) == ((5, SIDE, SIDE), np.uint8)
    assert found[:, 7, 9].tolist() == [5, 0, 70, 5, 80]
    pictures.read(np.array([0, 1]))
    assert loaded == [0, 5, 1]
    assert list(tmp_path.iterdir()) == []


def test_large_crops_shrink_as_small_ones_do() -> None:
    image = photo(3).resize((224, 224), Image.Resampling.BICUBIC)
    found = decode_thumbnail(encode_jpeg(image, 95)).astype(int)
    assert np.abs(found - thumbnail(image)).mean() < 3


def test_maps_join_the_two_alignments(tmp_path: Path) -> None:
    """A point of the photo lies where both matrices put it, also when one photo is the other at another scale."""
    small = photo(0).resize((55, 48), Image.Resampling.BICUBIC)
    table = write_faces(tmp_path / "a", [(photo(0), {}), (small, {}), (photo(0), {"matrix": None})])
    maps, sizes = photo_maps(table)
    assert sizes.tolist() == [[110, 96], [55, 48], [110, 96]]
    over = expected_maps(maps[:1], sizes[:1], maps[1:2], sizes[1:2])[0]
    point = np.array([50.0, 40.0, 1.0])  # of the large photo; pixel centers halve to (p + 0.5) / 2 - 0.5
    in_small = np.array([(50.0 + 0.5) / 2 - 0.5, (40.0 + 0.5) / 2 - 0.5, 1.0])
    np.testing.assert_allclose(over @ (maps[1] @ in_small), maps[0] @ point, atol=1e-6)
    np.testing.assert_allclose(maps[2] @ [-0.5, -0.5, 1], [-0.5, -0.5, 1], err_msg="without a matrix: the whole photo")
    np.testing.assert_allclose(maps[2] @ [109.5, 95.5, 1], [SIDE - 0.5, SIDE - 0.5, 1])
