"""Face collections without expression labels: folders per person, packed sets, CASIA-WebFace, VGGFace2, LFW."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.datasets import identities, vggface2
from ssfer.datasets.base import Count, Source
from ssfer.datasets.registry import SOURCES, open_source
from tests.support.recordio_files import write_insightface
from tests.support.source_files import entry, open_kind, write_files

PHOTOS = {1: (7.0, b"one"), 2: (7.0, b"two"), 3: (12.0, b"three")}


def write(root: Path, names: Iterable[str], kind: str = "folder", name: str = "set") -> Path:
    """Write files whose bytes are their own names."""
    if kind == "folder":
        for file in names:
            (root / name / file).parent.mkdir(parents=True, exist_ok=True)
            (root / name / file).write_bytes(file.encode())
        return root / name
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(root / f"{name}.zip", "w") as archive:
        for file in names:
            archive.writestr(file, file.encode())
    return root / f"{name}.zip"


def counts_of(source: Source) -> list[tuple[str, str, int, int]]:
    return [(c.part, c.name, c.expected, c.found) for c in source.counts()]


PEOPLE = ["Ann/Ann_1.jpg", "Ann/Ann_2.JPG", "Bob/deep/b.png", "notes.txt", "top.webp"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_identities_come_from_folder_names(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, PEOPLE, kind)
    source = open_kind("identities", path)
    assert [(r.path, r.identity, r.usage, r.label) for r in source.records()] == [
        ("Ann/Ann_1.jpg", "Ann", "none", None),
        ("Ann/Ann_2.JPG", "Ann", "none", None),
        ("Bob/deep/b.png", "deep", "none", None),
        ("top.webp", None, "none", None),
    ]
    assert (source.people, source.dropped, source.notes, source.counts()) == (2, {"not_an_image": 1}, [], [])
    assert source.read(source.records()[1]) == b"Ann/Ann_2.JPG"


def test_identities_without_photos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match="found 1 files and no photo among them$"):
        open_kind("identities", write(tmp_path, ["notes.txt"]))
    with pytest.raises(SsferError, match=r"no photo among them; unpack the archive, train\.rec is read from a folder"):
        open_kind("identities", write(tmp_path, ["faces/train.rec", "faces/train.idx"], "zip"))


@pytest.mark.parametrize("place", ["", "faces_emore", "train.rec"])
def test_a_packed_set_is_a_source_of_photos(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "set" / (place if place == "faces_emore" else "")
    write_insightface(folder, PHOTOS)
    (folder / "property").write_text("2,112,112\n")
    (folder / "lfw.bin").write_bytes(b"a pickle that nobody opens")
    source = open_kind("identities", tmp_path / "set" / (place if place == "train.rec" else ""))
    assert [(r.path, r.identity, r.usage, r.label) for r in source.records()] == [
        ("train.rec/00000001.jpg", "7", "none", None),
        ("train.rec/00000002.jpg", "7", "none", None),
        ("train.rec/00000003.jpg", "12", "none", None),
    ]
    assert [source.read(r) for r in source.records()] == [b"one", b"two", b"three"]
    assert (source.people, source.claimed, source.dropped, source.counts()) == (2, 2, {"identity_record": 3}, [])
    assert len(source.notes) == 1
    assert "112 px ArcFace crops" in source.notes[0]
    records = source.records()
    assert records is source.records()  # made once
    assert source.read(records[2]) == b"three"
    assert source.stamp(records[2]) == source.stamp(records[2]) != source.stamp(records[1])


@pytest.mark.parametrize(
    ("people", "note"),
    [
        (85_742, "looks like MS-Celeb-1M .* withdrawn"),
        (93_431, "looks like MS-Celeb-1M"),
        (10_572, "looks like CASIA-WebFace; 'kind: casia_webface'"),
        (3, "'property' says 3 people, the labels name 2"),
    ],
)
def test_packed_sets_that_are_known_get_a_note(tmp_path: Path, people: int, note: str) -> None:
    write_insightface(tmp_path, PHOTOS)
    (tmp_path / "property").write_text(f"{people},112,112")
    assert any(re.search(note, n) for n in open_kind("identities", tmp_path).notes)


@pytest.mark.parametrize("text", ["", "10572", "10572;112;112", "a,b,c", "1" * 200])
def test_a_property_file_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    write_insightface(tmp_path, PHOTOS)
    (tmp_path / "property").write_text(text)
    with pytest.raises(SsferError, match=r"expected 'people,height,width' in .*property, found"):
        open_kind("identities", tmp_path)


def test_two_packed_sets_and_a_missing_index_are_refused(tmp_path: Path) -> None:
    write_insightface(tmp_path / "a", PHOTOS)
    write_insightface(tmp_path / "b", PHOTOS)
    with pytest.raises(SsferError, match=r"expected one train\.rec in .*, found 2"):
        open_kind("identities", tmp_path)
    (tmp_path / "a/train.idx").unlink()
    with pytest.raises(SsferError, match=r"expected the file train\.idx in .*a, found none"):
        open_kind("identities", tmp_path / "a")


def lfw(people: int, last: int = 1) -> list[str]:
    names = [f"Name_{chr(97 + i % 26)}{i}" for i in range(people)]
    return [f"lfw/{n}/{n}_0001.jpg" for n in names] + [
        f"lfw/{names[0]}/{names[0]}_{i:04d}.jpg" for i in range(2, last + 1)
    ]


@pytest.fixture
def small_lfw(monkeypatch: pytest.MonkeyPatch) -> None:
    """LFW with a hundredth of its people and photos."""
    monkeypatch.setattr(identities, "_LFW_IMAGES", 132)
    monkeypatch.setattr(identities, "_LFW_PEOPLE", 57)
    monkeypatch.setattr(identities, "_LFW_LEAST", 50)


@pytest.mark.usefixtures("small_lfw")
def test_nearly_all_of_lfw_has_published_counts(tmp_path: Path) -> None:
    source = open_kind("identities", write(tmp_path, lfw(57, last=132 - 56), "zip"))
    assert counts_of(source) == [("all", "images", 132, 132), ("all", "identities", 57, 57)]
    assert (source.variant, source.notes) == ("LFW", [])
    path = write(tmp_path / "cut", lfw(50), "zip")
    assert counts_of(open_kind("identities", path)) == [("all", "images", 132, 50), ("all", "identities", 57, 50)]
    params = entry("identities", path.name, labeled=False)
    with pytest.raises(SsferError, match=r"identities +57 +50 +-7"):
        open_source(params, path.parent)
    assert len(open_source(params.model_copy(update={"counts": "any"}), path.parent).records()) == 50


@pytest.mark.usefixtures("small_lfw")
def test_larger_sets_and_other_names_are_not_taken_for_lfw(tmp_path: Path) -> None:
    more = open_kind("identities", write(tmp_path / "more", lfw(58), "zip"))
    assert (more.counts(), more.notes) == ([], [])
    other = open_kind("identities", write(tmp_path / "other", [*lfw(51), "lfw/Ann/Bob_0001.jpg"], "zip"))
    assert (other.counts(), other.notes, other.variant) == ([], [], "photos in one folder per person")


def test_a_part_of_lfw_is_accepted_with_a_note(tmp_path: Path) -> None:
    part = open_kind("identities", write(tmp_path, lfw(20, last=3), "zip"))
    assert part.counts() == []
    assert part.notes == ["looks like a part of LFW: 22 of 13,233 photos, 20 of 5,749 people"]


CASIA = ["0000045/001.jpg", "0000045/002.jpg", "0000099/001.jpg", "readme.txt"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("outer", ["", "CASIA-WebFace/"])
def test_casia_webface_in_folders(tmp_path: Path, kind: str, outer: str) -> None:
    names = [outer + n for n in CASIA]
    source = open_kind("casia_webface", write(tmp_path, names, kind))
    assert [(r.path, r.identity, r.usage) for r in source.records()] == [
        (names[0], "0000045", "none"),
        (names[1], "0000045", "none"),
        (names[2], "0000099", "none"),
    ]
    assert counts_of(source) == [("all", "images", 494_414, 3), ("all", "identities", 10_575, 2)]
    assert (source.variant, source.notes) == ("CASIA-WebFace, folders", [])
    assert pickle.loads(pickle.dumps(source)).read(source.records()[2]) == names[2].encode()
    assert SOURCES["casia_webface"].recognize(sorted(names))


def test_casia_webface_packed_has_no_published_counts(tmp_path: Path) -> None:
    write_insightface(tmp_path / "faces_webface_112x112", PHOTOS)
    source = open_kind("casia_webface", tmp_path)
    assert (source.variant, source.counts(), len(source.records())) == ("CASIA-WebFace, insightface .rec file", [], 3)
    assert [n[:23] for n in source.notes] == [".rec files hold 112 px ", "3 photos of 2 people; a"]
    assert source.read(source.records()[0]) == b"one"


@pytest.mark.parametrize("name", ["45/001.jpg", "00000045/001.jpg", "001.jpg", "0000045/1.jpg", "0000045/001.png"])
def test_casia_webface_of_another_layout_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SsferError, match=rf"at <7 digits>/<3 digits>\.jpg, found '{name}'; .* 'kind: identities'"):
        open_kind("casia_webface", write(tmp_path, ["0000045/001.jpg", name]))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_vggface2_counts_the_people_of_each_part(tmp_path: Path, kind: str) -> None:
    names = ["v/train/n000002/0001_01.jpg", "v/train/n000002/0001_02.jpg", "v/test/n000001/0007_01.jpg"]
    source = open_kind("vggface2", write(tmp_path, [*names, "v/bb_landmark/loose_bb_test.csv"], kind))
    assert [(r.path, r.identity, r.usage, r.label) for r in source.records()] == [
        (names[2], "n000001", "none", None),
        (names[0], "n000002", "none", None),
        (names[1], "n000002", "none", None),
    ]
    assert counts_of(source) == [("train", "identities", 8_631, 1), ("test", "identities", 500, 1)]
    assert source.variant == "VGGFace2, train and test"
    assert source.notes == ["3 photos; about 3.31 million are published, which is not checked"]
    assert source.dropped["not_an_image"] == 1
    assert source.read(source.records()[0]) == names[2].encode()
    assert SOURCES["vggface2"].recognize(sorted(names))


@pytest.mark.parametrize(("people", "expected"), [(91, 91), (89, 91), (88, 86), (80, 86), (45, 5), (46, 86)])
def test_vggface2_in_one_folder_is_taken_for_the_nearest_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, people: int, expected: int
) -> None:
    path = write(tmp_path, [f"vgg/n{i:06d}/0001_01.jpg" for i in range(people)], "zip")
    assert open_kind("vggface2", path).counts() == [Count("all", "identities", 500, people)]
    monkeypatch.setattr(vggface2, "_PEOPLE", {"train": 86, "test": 5})
    source = open_kind("vggface2", path)
    assert source.counts() == [Count("all", "identities", expected, people)]
    assert source.variant == "VGGFace2, one folder"


def test_vggface2_of_another_layout_is_refused(tmp_path: Path) -> None:
    good = "train/n000001/0001_01.jpg"
    for i, bad in enumerate(["n1/0001_01.jpg", "train/n000001/1.jpg", "n0000011/0001_01.jpg"]):
        with pytest.raises(SsferError, match=rf"at n000001/0001_01\.jpg, below .*, found '{bad}'"):
            open_kind("vggface2", write(tmp_path, [good, bad], name=str(i)))
    with pytest.raises(SsferError, match="below train and test, or all in one folder, found both forms"):
        open_kind("vggface2", write(tmp_path, [good, "n000002/0001_01.jpg"]))
    with pytest.raises(SsferError, match="at n000001"):
        open_kind("vggface2", write_insightface(tmp_path / "packed", PHOTOS).parent)


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (["0000045/001.jpg", "0000045/002.jpg"], {"casia_webface", "identities"}),
        (["x/n000001/0001_01.jpg", "x/n000001/bb.csv"], {"vggface2", "identities"}),
        (["test/n000001/0001_01.jpg"], {"vggface2", "identities"}),
        (["faces_webface_112x112/train.idx", "faces_webface_112x112/train.rec"], {"casia_webface", "identities"}),
        (["lfw.bin", "property", "train.idx", "train.rec"], {"identities"}),
        (["mine.rec"], {"identities"}),
        (["faces_emore/train.rec"], {"identities"}),
        (["Ann/Ann_1.JPG", "Ann/notes.txt"], {"identities"}),
        (["Ann/0000045/x.jpg", "Bob/b.jpg"], {"identities"}),
        (["a.jpg", "notes/n.txt", "old/other.rec"], set()),
        ([], set()),
    ],
)
def test_collections_are_recognized_by_their_names(names: list[str], kinds: set) -> None:
    found = {kind for kind in ("casia_webface", "identities", "vggface2") if SOURCES[kind].recognize(names)}
    assert found == kinds


def test_one_stray_photo_among_many_does_not_hide_a_collection() -> None:
    names = sorted([f"{i:07d}/001.jpg" for i in range(5_000)] + ["cover.jpg"])
    assert SOURCES["casia_webface"].recognize(names)
    assert not SOURCES["casia_webface"].recognize(sorted(["0000001/001.jpg"] + [f"p{i}/1.jpg" for i in range(5_000)]))


def test_packed_files_may_be_links(tmp_path: Path) -> None:
    write_insightface(tmp_path / "real", PHOTOS)
    (tmp_path / "set").mkdir()
    for name in ("train.rec", "train.idx"):
        os.symlink(tmp_path / "real" / name, tmp_path / "set" / name)
    assert open_kind("identities", tmp_path / "set").records()


@pytest.mark.parametrize(("folders", "said"), [(("calm", "smiling face"), True), (("n0001", "n0002"), False)])
def test_folders_with_words_for_names_may_be_classes(tmp_path: Path, folders: tuple[str, ...], said: bool) -> None:
    source = open_kind("identities", write_files(tmp_path, {f"{name}/1.jpg": b"" for name in folders}))
    assert any("--kind class_folders" in note for note in source.notes) is said
