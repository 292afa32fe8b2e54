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
    names = ["a/x.jpg", "b/x.jpg", "a/x-2.jpg", "c/x.jpg", "b/x-2.jpg"]
    places = [item.place for item in items_of(tmp_path / name for name in names)]
    assert places == ["x.jpg", "x-2.jpg", "x-2-2.jpg", "x-3.jpg", "x-2-3.jpg"]


def test_annotated_copies_of_the_folder_above_go_below_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos/in").mkdir(parents=True)
    (tmp_path / "photos/x.jpg").touch()
    monkeypatch.chdir(tmp_path / "photos/in")
    for path in ("..", "../in/..", str(tmp_path / "photos/in/..")):
        assert [item.place for item in items_of([path])] == ["photos/x.jpg"]


def test_what_cannot_be_read_has_a_status(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "up.zip", "w") as archive:
        archive.writestr("../../outside.jpg", b"x")
    paths = [tmp_path / "absent.jpg", tmp_path / "text.zip", tmp_path / "up.zip", Path("x" * 5000)]
    assert [item.status for item in items_of(paths)] == ["missing", "refused", "refused", "missing"]


def test_links_that_lead_nowhere_or_to_themselves_are_broken(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "itself.jpg").symlink_to(tmp_path / "itself.jpg")
    assert [(item.path.name, item.status) for item in items_of([tmp_path])] == [
        ("dangling.jpg", "broken_link"), ("itself.jpg", "broken_link"),
    ]  # fmt: skip


def test_a_folder_or_zip_without_photos_is_empty(tmp_path: Path) -> None:
    (tmp_path / "in/below").mkdir(parents=True)
    (tmp_path / "in/notes.txt").touch()
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        archive.writestr("notes.txt", b"x")
    found = [(item.name, item.status) for item in items_of([tmp_path / "in", tmp_path / "texts.zip"])]
    assert found == [(str(tmp_path / "in"), "empty"), (str(tmp_path / "texts.zip"), "empty")]


def test_a_pipe_is_not_waited_for_and_a_huge_file_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "huge.jpg").write_bytes(bytes(11))
    os.mkfifo(tmp_path / "pipe.mp4")
    huge, *pipes = items_of([tmp_path])
    monkeypatch.setattr(items, "MAX_FILE_BYTES", 10)
    assert [(pipe.kind, pipe.status) for pipe in pipes] == [("status", "unreadable")] * 2
    with pytest.raises(FileTooLarge):
        huge.read()
