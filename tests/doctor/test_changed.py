"""`ssfer doctor` finds mirrored copies of test photos among the training photos, up to so many images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from ssfer.copies.thumbnails import thumbnail
from ssfer.doctor import changed
from ssfer.doctor.changed import aligned_faces
from ssfer.faces.detectors.base import Detection
from tests.support.doctor_files import HERE, class_folders, codes, encoded, finding, look, photo
from tests.support.rendered_photos import BrightDetector
from tests.support.source_files import write_files


class NoFaces(BrightDetector):
    """Finds none, so that whole photos are compared."""

    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        return [Detection() for _ in images]


@pytest.fixture(autouse=True)
def _detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed, "_detector", NoFaces)


def mirrored(seed: int) -> bytes:
    return encoded(ImageOps.mirror(photo(seed)))


def test_a_mirrored_test_photo_among_the_training_photos_is_an_error(tmp_path: Path) -> None:
    folder = write_files(tmp_path, class_folders(train__fear__again=mirrored(6)))
    values = look(folder)
    assert (codes(values), values["exit_status"]) == ([("error", "test_in_training")], 2)
    assert finding(values, "test_in_training")["examples"] == ["test/anger/6.png ~ train/fear/again.png"]


def test_more_images_than_asked_for_are_not_searched_and_that_is_said(tmp_path: Path) -> None:
    folder = write_files(tmp_path, class_folders(train__fear__again=mirrored(6)))
    values = look(folder, settings=replace(HERE, faces=7))
    assert codes(values) == [("info", "faces_not_compared")]
    assert "among 8 images; do so with --faces 8" in values["findings"][0]["text"]


def test_unreadable_photos_are_black_and_photos_without_a_face_whole(tmp_path: Path) -> None:
    from ssfer.datasets.base import SourceSettings
    from ssfer.datasets.registry import open_source

    write_files(tmp_path / "p", {"a/1.png": b"x", "a/2.png": encoded(Image.new("RGB", (64, 64), (90, 90, 90)))})
    entry = {"name": "p", "kind": "identities", "path": "p", "labeled": False, "align": "similarity"}
    source = open_source(SourceSettings(**entry), tmp_path)
    faces = aligned_faces(None, [(source, record) for record in source.records()])
    assert (faces[0] == 0).all()
    assert (faces[1] == thumbnail(Image.new("RGB", (64, 64), (90, 90, 90)))).all()
