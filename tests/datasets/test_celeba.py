"""CelebA as a folder, as the zip beside its text files, and as one zip with everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.datasets.registry import SOURCES
from tests.support.source_files import open_kind, write_files, write_zip

PHOTOS = {f"img_align_celeba/{i:06d}.jpg": b"photo %d" % i for i in (1, 2, 3)}
IDENTITIES = b"000001.jpg 2880\n000002.jpg 2937\n000003.jpg 2880\n000004.jpg 8\n"
PARTITION = b"000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n"


def write(root: Path, layout: str, photos: dict[str, bytes] = PHOTOS, identities: bytes | None = IDENTITIES) -> Path:
    texts = {"list_eval_partition.txt": PARTITION} | ({"identity_CelebA.txt": identities} if identities else {})
    if layout == "folder":
        return write_files(root, photos | texts)
    if layout == "zip_inside":
        write_zip(root / "img_align_celeba.zip", photos)
        return write_files(root, texts)
    if layout == "official":
        write_zip(root / "Img/img_align_celeba.zip", photos)
        return write_files(root, {f"{'Anno' if 'identity' in n else 'Eval'}/{n}": data for n, data in texts.items()})
    if layout == "nested":  # as one mirror packs it
        return write_files(root, {f"img_align_celeba/{n}": data for n, data in photos.items()} | texts)
    return write_zip(root / "celeba.zip", {f"celeba/{n}": data for n, data in (photos | texts).items()})


LAYOUTS = ["folder", "zip_inside", "official", "nested", "one_zip"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_records(tmp_path: Path, layout: str) -> None:
    source = open_kind("celeba", write(tmp_path, layout))
    assert [(r.path, r.identity, r.usage, r.label) for r in source.records()] == [
        ("img_align_celeba/000001.jpg", "2880", "none", None),
        ("img_align_celeba/000002.jpg", "2937", "none", None),
        ("img_align_celeba/000003.jpg", "2880", "none", None),
    ]
    assert [(c.name, c.expected, c.found) for c in source.counts()] == [
        ("images", 202_599, 3),
        ("identities", 10_177, 2),
    ]
    place = "zip" if "zip" in layout or layout == "official" else "folder"
    assert (source.variant, source.notes) == (f"CelebA, aligned photos in a {place}, with identities", [])
    assert [source.read(r) for r in source.records()] == list(PHOTOS.values())


def test_the_photos_zip_alone_has_no_identities(tmp_path: Path) -> None:
    source = open_kind("celeba", write_zip(tmp_path / "img_align_celeba.zip", PHOTOS))
    assert [r.identity for r in source.records()] == [None, None, None]
    assert [c.name for c in source.counts()] == ["images"]
    assert source.variant == "CelebA, aligned photos in a zip, without identities"
    assert source.notes == ["without identity_CelebA.txt no photo has an identity"]


def test_png_photos_and_other_files_beside_them(tmp_path: Path) -> None:
    photos = {n.replace(".jpg", ".png"): data for n, data in PHOTOS.items()} | {"img_align_celeba/list.csv": b""}
    source = open_kind("celeba", write(tmp_path, "folder", photos))
    assert (source.records()[0].path, source.records()[0].identity) == ("img_align_celeba/000001.png", "2880")
    assert source.dropped["not_an_image"] == 1


@pytest.mark.parametrize(
    ("identities", "message"),
    [
        (
            b"000001.jpg 2880\n",
            r"an identity of every photo .* none of 2 photos, the first is '.*000002\.jpg'",
        ),
        (
            b"000001.jpg 2880\n000002.jpg\n",
            r"identity_CelebA\.txt, line 2: expected .*, found '000002\.jpg'",
        ),
        (b"1.jpg 2880\n", r"line 1: expected '000001\.jpg 2880'"),
        (b"\x00\xff\xfe binary", r"identity_CelebA\.txt is not a text file"),
        (IDENTITIES + b"000001.jpg 7\n", r"line 5: '000001\.jpg' has two identities, expected one"),
    ],
)
def test_mistakes_in_the_identity_file_get_one_sentence(tmp_path: Path, identities: bytes, message: str) -> None:
    with pytest.raises(SsferError, match=message) as error:
        open_kind("celeba", write(tmp_path, "folder", identities=identities))
    assert "\n" not in str(error.value)


def test_no_photos_and_photos_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match=r"expected CelebA's photos as .* found none among 1 files"):
        open_kind("celeba", write_files(tmp_path / "a", {"img_celeba/000001.jpg": b""}))
    with pytest.raises(SsferError, match="found none among 1 files"):
        write_zip(tmp_path / "b/img_align_celeba.zip", {"000001.jpg": b""})
        open_kind("celeba", tmp_path / "b")
    write(tmp_path / "c", "folder")
    write_zip(tmp_path / "c/img_align_celeba.zip", PHOTOS)
    with pytest.raises(SsferError, match=r"once in .*, found it 2 times \(img_align_celeba, img_align_celeba\.zip\)"):
        open_kind("celeba", tmp_path / "c")
    with pytest.raises(SsferError, match=r"found it 2 times \(x/img_align_celeba, y/img_align_celeba\)"):
        open_kind("celeba", write_files(tmp_path / "d", {f"{p}/{n}": b"" for n in PHOTOS for p in "xy"}))


def test_a_zip_that_leads_out_is_refused_inside_the_folder_too(tmp_path: Path) -> None:
    write_zip(tmp_path / "img_align_celeba.zip", {"img_align_celeba/000001.jpg": b"", "../evil.jpg": b""})
    with pytest.raises(SsferError, match="leads out of the archive"):
        open_kind("celeba", tmp_path)


@pytest.mark.parametrize(
    ("names", "yes"),
    [
        (["celeba/identity_CelebA.txt", "celeba/img_align_celeba/000001.jpg"], True),
        (["Anno/identity_CelebA.txt", "Img/img_align_celeba.zip"], True),
        (["img_align_celeba.zip"], True),
        (["img_align_celeba/0001.jpg", "my_img_align_celeba/000001.jpg"], False),
        (["img_celeba/000001.jpg"], False),
        ([], False),
    ],
)
def test_recognized_by_its_photo_folder(names: list[str], yes: bool) -> None:
    assert SOURCES["celeba"].recognize(names) is yes
