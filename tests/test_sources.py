"""Folders, zips and data sets as their users hold them, and as an attacker would."""

from __future__ import annotations

import os
import pickle
import stat
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssfer.errors import SsferError
from ssfer.params import SourceParams
from ssfer.sources import archives
from ssfer.sources.archives import FolderArchive, ZipArchive, open_archive
from ssfer.sources.base import FileTooLarge, RawRecord, open_source
from ssfer.sources.ferplus import FerPlusSource
from ssfer.sources.identities import IdentitySource

BOX = "(0, 0, 48, 48)"


def png(seed: int = 0) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 48), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


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
    with pytest.raises(SsferError, match="folder or a zip"):
        open_archive(tmp_path / "x.zip")
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
    with pytest.raises(SsferError, match="encrypted"):
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


def test_folder_links_may_not_leave_the_folder(tmp_path: Path) -> None:
    write_files(tmp_path, {"secret/key.png": b"secret", "data/a/1.png": b"one"})
    (tmp_path / "data/inside.png").symlink_to(tmp_path / "data/a/1.png")
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    archive = FolderArchive(tmp_path / "data")
    assert archive.names() == ["a/1.png", "inside.png"]
    (tmp_path / "data/a/1.png").unlink()
    (tmp_path / "data/a/1.png").symlink_to(tmp_path / "secret/key.png")  # swapped after the listing
    with pytest.raises(PermissionError):
        archive.read("a/1.png")
    for name, target in (("file.png", "secret/key.png"), ("folder", "secret")):
        link = tmp_path / "data" / name
        link.symlink_to(tmp_path / target)
        with pytest.raises(SsferError, match="leads out of the folder"):
            FolderArchive(tmp_path / "data")
        link.unlink()


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


PEOPLE = {"Ann/Ann_1.jpg": b"1", "Ann/Ann_2.JPG": b"2", "Bob/deep/b.png": b"3", "notes.txt": b"", "top.webp": b"4"}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_identities_come_from_folder_names(tmp_path: Path, kind: str) -> None:
    path = write_files(tmp_path / "p", PEOPLE) if kind == "folder" else write_zip(tmp_path / "p.zip", PEOPLE)
    source = IdentitySource(path)
    assert [(r.path, r.identity, r.usage, r.label) for r in source.records()] == [
        ("Ann/Ann_1.jpg", "Ann", "none", None),
        ("Ann/Ann_2.JPG", "Ann", "none", None),
        ("Bob/deep/b.png", "deep", "none", None),
        ("top.webp", None, "none", None),
    ]
    assert source.dropped["not_an_image"] == 1
    assert source.read(source.records()[1]) == b"2"


def test_identities_without_photos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match="found 1 files and no photo"):
        IdentitySource(write_files(tmp_path / "p", {"notes.txt": b""}))


def votes(*values: int) -> str:
    return ",".join(map(str, values))


# name, votes (neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF) -> label
TRAIN_ROWS = [
    ("fer0000000.png", (4, 0, 0, 1, 3, 2, 0, 0, 0, 0), "neutral"),
    ("fer0000001.png", (3, 0, 0, 0, 0, 0, 0, 3, 3, 1), "neutral"),  # three-way tie: the first column
    ("fer0000002.png", (0, 0, 0, 2, 0, 0, 3, 2, 2, 1), "fear"),  # no majority, still the largest
    ("fer0000003.png", (1, 1, 0, 1, 0, 0, 0, 0, 7, 0), None),  # unknown
    ("fer0000004.png", (0, 4, 0, 0, 0, 0, 0, 0, 4, 2), "happiness"),  # ties with unknown: earlier column wins
    ("fer0000005.png", (0, 0, 0, 0, 0, 0, 0, 0, 0, 10), None),  # not a face
    ("", (0, 0, 0, 0, 0, 0, 0, 9, 0, 0), None),  # no name
    ("fer0000007.png", (0, 0, 0, 0, 0, 1, 0, 8, 0, 0), "contempt"),  # nine votes: counted all the same
]
VALID_ROWS = [("fer0028638.png", (0, 0, 0, 0, 0, 6, 0, 0, 3, 0), "disgust")]


def ferplus_files(part: str, rows: list, prefix: bool = True) -> dict[str, bytes]:
    label = "".join(f'{name},"{BOX}",{votes(*v)}\n' for name, v, _ in rows).encode()
    files = {"label.csv": label} | {name: png(i) for i, (name, _, _) in enumerate(rows) if name}
    return {f"{part}/{name}" if prefix else name: data for name, data in files.items()}


def write_ferplus(root: Path, layout: str) -> Path:
    parts = {"FER2013Train": TRAIN_ROWS, "FER2013Valid": VALID_ROWS}
    for part, rows in parts.items():
        if layout == "folders":
            write_files(root, ferplus_files(part, rows))
        elif layout == "one_zip":
            continue
        else:
            write_zip(root / f"{part}.zip", ferplus_files(part, rows, prefix=layout == "zips"))
    if layout == "one_zip":
        files = ferplus_files("FER2013Train", TRAIN_ROWS) | ferplus_files("FER2013Valid", VALID_ROWS)
        return write_zip(root / "all.zip", {f"export/{name}": data for name, data in files.items()})
    return root


@pytest.mark.parametrize("layout", ["folders", "zips", "bare_zips", "one_zip"])
def test_ferplus_layouts_and_label_rule(tmp_path: Path, layout: str) -> None:
    path = write_ferplus(tmp_path, layout)
    params = SourceParams(name="ferplus", kind="ferplus", path=path.name, labeled=True, align="resize")
    source = open_source(params, path.parent)
    kept = [("FER2013Train", "train", *row) for row in TRAIN_ROWS if row[2]]
    kept += [("FER2013Valid", "test", *row) for row in VALID_ROWS]
    assert list(source.records()) == [
        RawRecord(f"{part}/{name}", label=label, usage=usage, votes=v) for part, usage, name, v, label in kept
    ]
    assert dict(source.dropped) == {"unknown": 1, "NF": 1, "no_name": 1}
    again = pickle.loads(pickle.dumps(source))
    assert again.read(again.records()[-1]) == png(0)
    assert again.read(again.records()[2]) == png(2)
    assert len({again.stamp(r) for r in again.records()[:-1]}) > 1


def test_ferplus_train_alone_is_enough_and_train_is_needed(tmp_path: Path) -> None:
    write_files(tmp_path / "a", ferplus_files("FER2013Train", TRAIN_ROWS))
    assert {r.usage for r in FerPlusSource(tmp_path / "a").records()} == {"train"}
    write_files(tmp_path / "b", ferplus_files("FER2013Test", VALID_ROWS))
    with pytest.raises(SsferError, match=r"expected FER2013Train .* found FER2013Test"):
        FerPlusSource(tmp_path / "b")
    (tmp_path / "c").mkdir()
    with pytest.raises(SsferError, match="found no part of FERPlus"):
        FerPlusSource(tmp_path / "c")


def test_ferplus_part_given_twice_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, ferplus_files("FER2013Train", TRAIN_ROWS))
    write_zip(tmp_path / "FER2013Train.zip", ferplus_files("FER2013Train", TRAIN_ROWS))
    with pytest.raises(SsferError, match="a folder and a zip"):
        FerPlusSource(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("FER2013Train/label.csv"), r"expected label.csv .* found none among 7 files"),
        (lambda f: f.pop("FER2013Train/fer0000002.png"), r"lists 8 images, 1 of them are missing.*fer0000002\.png"),
        (lambda f: f.update({"FER2013Train/label.csv": b"a.png,1,2\n"}), "line 1: expected 12 columns .* found 3"),
        (
            lambda f: f.update({"FER2013Train/label.csv": b"Usage,Image name" + b",v" * 10 + b"\n"}),
            "line 1: expected ten counts of votes, found v, v",
        ),
        (lambda f: f.update({"FER2013Train/label.csv": b"x.png,b,-1" + b",1" * 9}), "expected ten counts of votes"),
        (lambda f: f.update({"FER2013Train/label.csv": b"\xff\xfe\x00binary"}), "not a text file"),
        (
            lambda f: f.update(
                {"FER2013Train/label.csv": 2 * (f'fer0000000.png,"{BOX}",9' + ",0" * 9 + "\n").encode()}
            ),
            "line 2: image 'fer0000000.png' is listed twice",
        ),
    ],
)
def test_ferplus_mistakes_get_one_sentence(tmp_path: Path, change: object, message: str) -> None:
    files = ferplus_files("FER2013Train", TRAIN_ROWS)
    change(files)
    with pytest.raises(SsferError, match=message) as error:
        FerPlusSource(write_files(tmp_path, files))
    assert "\n" not in str(error.value)


def test_missing_source_names_the_place(tmp_path: Path) -> None:
    params = SourceParams(name="faces", kind="identities", path="lfw", labeled=False, align="similarity")
    with pytest.raises(SsferError, match=r"source 'faces' expects its data at .*lfw"):
        open_source(params, tmp_path)
