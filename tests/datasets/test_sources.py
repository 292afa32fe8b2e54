"""Folders, zips and data sets as their users hold them, and as an attacker would."""

from __future__ import annotations

import os
import pickle
import stat
import zipfile
from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.datasets.base import FileTooLarge
from ssfer.datasets.registry import open_source
from ssfer.datasets.shared import archives
from ssfer.datasets.shared.archives import FolderArchive, ZipArchive, open_archive
from tests.support.source_files import entry, write_files, write_zip

FILES = {
    "b/2.png": b"two",
    "a/1.png": b"one",
    "a/__MACOSX/x.png": b"junk",
    "b/.DS_Store": b"junk",
    "Thumbs.db": b"junk",
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_folder_and_zip_look_the_same(tmp_path: Path, kind: str) -> None:
    path = write_files(tmp_path / "d", FILES) if kind == "folder" else write_zip(tmp_path / "d.zip", FILES)
    archive = open_archive(path)
    assert archive.names() == ["a/1.png", "b/2.png"]
    assert archive.read("b/2.png") == b"two"
    again = pickle.loads(pickle.dumps(archive))
    assert again.names() == archive.names()
    assert again.read("a/1.png") == b"one"
    assert again.stamp("a/1.png") == archive.stamp("a/1.png") != archive.stamp("b/2.png")


def test_neither_folder_nor_zip(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(SsferError, match="not a readable zip file .*; download or copy it again"):
        open_archive(tmp_path / "x.zip")
    for name, how in {"x.tar.gz": "tar -xf", "x.rar": "unrar x", "x.7z": "7z x"}.items():
        (tmp_path / name).write_bytes(b"anything")
        with pytest.raises(SsferError, match=rf"unpack it \({how} {name}\) and give the folder"):
            open_archive(tmp_path / name)
    with pytest.raises(SsferError, match="found neither"):
        open_archive(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/passwd", "absolute"),
        ("C:/windows/x.png", "absolute"),
        ("a\\..\\x.png", "absolute"),
        ("../x.png", "leads out"),
        ("a/../../x.png", "leads out"),
    ],
)
def test_zip_member_names_may_not_leave_the_archive(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SsferError, match=message):
        ZipArchive(write_zip(tmp_path / "evil.zip", {"ok.png": b"", name: b"x"}))


def test_zip_links_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(SsferError, match="link or a device"):
        ZipArchive(tmp_path / "evil.zip")


def test_encrypted_and_repeated_members_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "locked.zip", {"a.png": b"abc"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the encryption flag in the central directory
    path.write_bytes(data)
    with pytest.raises(SsferError, match="protected by a password, .* unpack it with the password"):
        ZipArchive(path)
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.png", b"1")
        archive.writestr("a.png", b"2")
    with pytest.raises(SsferError, match="occurs twice"):
        ZipArchive(tmp_path / "twice.zip")


def test_zip_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_RATIO_FREE_BYTES", 50_000)
    with pytest.raises(SsferError, match="more than 100 times its size"):
        ZipArchive(write_zip(tmp_path / "one.zip", {"a.bmp": bytes(2_000_000)}))
    many = {f"{i}.bmp": bytes(49_999) for i in range(100)}
    with pytest.raises(SsferError, match="looks like a decompression bomb"):
        ZipArchive(write_zip(tmp_path / "many.zip", many))
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1000)
    with pytest.raises(SsferError, match="unpacks to 1001 bytes, at most 1000"):
        ZipArchive(write_zip(tmp_path / "big.zip", {"a.bmp": os.urandom(1001)}))
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    with pytest.raises(SsferError, match="has 3 members, at most 2"):
        ZipArchive(write_zip(tmp_path / "crowd.zip", {"a": b"", "b": b"", "c": b""}))


def test_links_in_a_folder_are_followed_each_file_once_and_loops_end(tmp_path: Path) -> None:
    write_files(tmp_path, {"disk/set/b/2.png": b"two", "disk/3.png": b"three", "data/a/1.png": b"one"})
    write_files(tmp_path, {"data/.store/4.png": b"four"})
    links = {"inside": "data/a", "loop": "data", "set": "disk/set", "gone": "nowhere", "stored": "data/.store"}
    for name, target in links.items():
        (tmp_path / "data" / name).symlink_to(tmp_path / target)
    (tmp_path / "data/3.png").symlink_to(tmp_path / "disk/3.png")
    (tmp_path / "disk/set/up").symlink_to(tmp_path / "disk/set")
    archive = FolderArchive(tmp_path / "data")
    assert archive.names() == ["3.png", "a/1.png", "set/b/2.png", "stored/4.png"]
    assert [archive.read(name) for name in archive.names()] == [b"three", b"one", b"two", b"four"]


def test_root_itself_may_be_a_link(tmp_path: Path) -> None:
    write_files(tmp_path / "disk", {"a/1.png": b"one"})
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    assert open_archive(tmp_path / "data").names() == ["a/1.png"]


def test_pipes_are_refused_and_huge_files_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "d", {"big.png": bytes(50)})
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 40)
    with pytest.raises(FileTooLarge):
        FolderArchive(tmp_path / "d").read("big.png")
    os.mkfifo(tmp_path / "d/pipe.png")
    with pytest.raises(SsferError, match="device or pipe"):
        FolderArchive(tmp_path / "d")


def test_missing_source_names_the_place(tmp_path: Path) -> None:
    params = entry("identities", "lfw", name="faces", labeled=False)
    with pytest.raises(SsferError, match=r"source 'faces' expects its data at .*lfw"):
        open_source(params, tmp_path)


def test_numbers_that_differ_are_refused_with_a_table_unless_accepted(tmp_path: Path) -> None:
    """By way of FERPlus's: three images are not the published number."""
    rows = "".join(f'fer000000{i}.png,"(0, 0, 48, 48)",9,1,0,0,0,0,0,0,0,0\n' for i in range(3))
    files = {f"FER2013Train/fer000000{i}.png": b"x" for i in range(3)} | {"FER2013Train/label.csv": rows.encode()}
    write_files(tmp_path / "set", files)
    params = entry("ferplus")
    with pytest.raises(SsferError, match=r"not the published number(.|\n)*train +images +28,385 +3 +-28,382"):
        open_source(params, tmp_path)
    assert len(open_source(params.model_copy(update={"counts": "any"}), tmp_path).records()) == 3


def test_missing_files_are_refused_above_a_share(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(10)]
    table = "path,label\n" + "".join(f"{name},fear\n" for name in names)
    write_files(tmp_path, {"faces.csv": table.encode()} | {name: b"x" for name in names[1:]})
    params = entry("csv", "faces.csv")
    with pytest.raises(SsferError, match=r"lists 10 images, 1 of them are missing, .*'0.jpg'; .* share than 0.05 with"):
        open_source(params, tmp_path)
    source = open_source(params, tmp_path, max_missing=0.1)
    assert (len(source.records()), source.missing, source.stamp(source.records()[0])) == (10, ["0.jpg"], "missing")


def test_a_labeled_source_needs_training_images(tmp_path: Path) -> None:
    files = {"FER2013Valid/a.png": b"x", "FER2013Valid/label.csv": b'a.png,"(0, 0, 48, 48)",9,1,0,0,0,0,0,0,0,0\n'}
    write_files(tmp_path / "set", files)
    params = entry("ferplus", counts="any")
    with pytest.raises(SsferError, match=r"has no training image; expected a training part"):
        open_source(params, tmp_path)
    assert len(open_source(params.model_copy(update={"labeled": False}), tmp_path).records()) == 1
