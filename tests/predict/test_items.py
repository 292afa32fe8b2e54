"""What lies at some paths: photos, videos, members of zip files, and a status for everything else."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from ssfer.datasets.base import FileTooLarge
from ssfer.predict import items
from ssfer.predict.items import items_of


def test_folders_are_read_to_the_bottom_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.jpg", ".hidden/x.jpg", "notes.txt", "c/clip.mp4", "__MACOSX/a.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "b/again").symlink_to(tmp_path)  # a circle
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("in/z.png", b"z")
        archive.writestr("in/readme.txt", b"z")
    found = list(items_of([tmp_path]))
    names = [os.path.relpath(item.name, tmp_path) for item in found]
    assert names == ["a.jpg", "b/1.png", "b/2.JPG", "c/clip.mp4", "d.zip/in/z.png"]
    assert [item.kind for item in found] == ["photo", "photo", "photo", "video", "photo"]
    assert found[-1].read() == b"z"
    assert found[-1].place == f"{tmp_path.name}/d.zip/in/z.png"


def test_annotated_copies_of_inputs_with_one_name_do_not_meet(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder / "in").mkdir(parents=True)
        (tmp_path / folder / "x.jpg").touch()
        (tmp_path / folder / "in/y.jpg").touch()
    paths = [tmp_path / "a/x.jpg", tmp_path / "b/x.jpg", tmp_path / "a/in", tmp_path / "b/in"]
    assert [item.place for item in items_of(paths)] == ["x.jpg", "x-2.jpg", "in/y.jpg", "in-2/y.jpg"]


def test_what_cannot_be_read_has_a_status(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "up.zip", "w") as archive:
        archive.writestr("../../outside.jpg", b"x")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    paths = [tmp_path / "absent.jpg", tmp_path / "text.zip", tmp_path / "up.zip"]
    assert [item.status for item in items_of(paths)] == ["missing", "refused", "refused"]
    (link,) = items_of([tmp_path / "dangling.jpg"])
    with pytest.raises(OSError):
        link.read()


def test_a_pipe_is_not_waited_for_and_a_huge_file_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "huge.jpg").write_bytes(bytes(11))
    huge, pipe = items_of([tmp_path])
    monkeypatch.setattr(items, "MAX_FILE_BYTES", 10)
    with pytest.raises(OSError, match="is no file"):
        pipe.read()
    with pytest.raises(FileTooLarge):
        huge.read()
