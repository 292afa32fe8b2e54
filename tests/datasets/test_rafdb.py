"""RAF-DB basic as its owner distributes it, as third parties do, and its compound label file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.datasets.base import RawRecord
from ssfer.datasets.registry import SOURCES
from tests.support.source_files import expected, found, open_kind, write_as, write_files, write_zip

LABELS = "basic/EmoLabel/list_patition_label.txt"
LINES = ["train_00001.jpg 5", "train_00002.jpg 1", "train_00003.jpg 7", "test_0001.jpg 2", "test_0002.jpg 3"]
LABELED = [
    ("train_00001", "sadness", "train"),
    ("train_00002", "surprise", "train"),
    ("train_00003", "neutral", "train"),
    ("test_0001", "fear", "test"),
    ("test_0002", "disgust", "test"),
]


def files(lines: list[str] | None = None) -> dict[str, bytes]:
    """The owner's files; a photo's bytes are its name."""
    names = [name for name, _, _ in LABELED]
    return {
        LABELS: ("\n".join(lines or LINES) + "\n").encode(),
        "basic/EmoLabel/distribution_basic.txt": b"",
        "basic/Annotation/manual/train_00001_manu_attri.txt": b"",
        **{f"basic/Image/aligned/{name}_aligned.jpg": f"{name}_aligned.jpg".encode() for name in names},
        **{f"basic/Image/original/{name}.jpg": f"{name}.jpg".encode() for name in names},
    }


@pytest.mark.parametrize("images", ["aligned", "original"])
@pytest.mark.parametrize("prefix", ["", "RAF-DB/"])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_photos_get_their_labels_and_parts(tmp_path: Path, form: str, prefix: str, images: str) -> None:
    path = write_as(form, tmp_path, {prefix + name: data for name, data in files().items()})
    source = open_kind("rafdb", path, images=images)
    ending = "_aligned.jpg" if images == "aligned" else ".jpg"
    assert source.records() == [
        RawRecord(f"Image/{images}/{name}{ending}", label=label, usage=usage) for name, label, usage in LABELED
    ]
    assert source.variant == f"RAF-DB basic, {images} images"
    assert [source.read(r).decode() for r in source.records()] == [f"{name}{ending}" for name, _, _ in LABELED]


def test_the_path_may_be_the_folder_basic_itself(tmp_path: Path) -> None:
    source = open_kind("rafdb", write_files(tmp_path, files()) / "basic")
    assert source.read(source.records()[4]) == b"test_0002_aligned.jpg"


@pytest.mark.parametrize("inner", ["", "aligned/"])
def test_images_may_still_be_packed(tmp_path: Path, inner: str) -> None:
    packed = {n.removeprefix("basic/Image/aligned/"): d for n, d in files().items() if "Image/aligned" in n}
    write_files(tmp_path, {name: data for name, data in files().items() if "Image/aligned" not in name})
    write_zip(tmp_path / "basic/Image/aligned.zip", {inner + name: data for name, data in packed.items()})
    source = open_kind("rafdb", tmp_path)
    assert [r.path for r in source.records()] == [f"Image/aligned/{name}_aligned.jpg" for name, _, _ in LABELED]
    assert source.read(source.records()[3]) == b"test_0001_aligned.jpg"
    assert (
        open_kind("rafdb", tmp_path, images="original").read(RawRecord("Image/original/test_0001.jpg"))
        == b"test_0001.jpg"
    )
    # The folder, once there, is taken.
    write_files(tmp_path, {f"basic/Image/aligned/{name}": b"unpacked" for name in packed})
    source = open_kind("rafdb", tmp_path)
    assert source.read(source.records()[0]) == b"unpacked"


def test_a_zip_in_a_zip_is_refused(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner.zip", {"train_00001_aligned.jpg": b"x"}).read_bytes()
    path = write_zip(tmp_path / "basic.zip", {LABELS: files()[LABELS], "basic/Image/aligned.zip": inner})
    with pytest.raises(SsferError, match="expected no zip in a zip; unpack the outer one"):
        open_kind("rafdb", path)


def test_photos_without_a_label_are_counted(tmp_path: Path) -> None:
    source = open_kind("rafdb", write_files(tmp_path, files(LINES[:4])))
    assert len(source.records()) == 4
    assert dict(source.dropped) == {"not_listed": 1}


def test_published_numbers_per_class(tmp_path: Path) -> None:
    counts = open_kind("rafdb", write_files(tmp_path, files())).counts()
    names = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
    train, test = (1290, 281, 717, 4772, 1982, 705, 2524), (329, 74, 160, 1185, 478, 162, 680)
    published = {("train", c): n for c, n in zip(names, train, strict=True)}
    assert expected(counts) == published | {("test", c): n for c, n in zip(names, test, strict=True)}
    assert sum(n for (part, _), n in expected(counts).items() if part == "train") == 12_271
    assert sum(n for (part, _), n in expected(counts).items() if part == "test") == 3_068
    assert found(counts) == {(usage, label): 1 for _, label, usage in LABELED}


def test_with_the_compound_part_beside_it_the_basic_part_is_taken(tmp_path: Path) -> None:
    compound = {name.replace("basic/", "compound/"): data for name, data in files(["train_0001.jpg 11"]).items()}
    source = open_kind("rafdb", write_files(tmp_path, {**files(), **compound}))
    assert len(source.records()) == 5


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [*LINES[:4], "test_0002.jpg 11"],
            r"line 5: expected a basic .* 1 to 7, found 11, which is RAF-DB's compound expressions \(1 to 11\)",
        ),
        (["train_00001.jpg 0"], "found 0, which is no expression"),
        ([*LINES, "test_0001.jpg 2"], "line 6: image 'test_0001.jpg' is listed twice"),
        (["valid_0001.jpg 2"], r"line 1: expected 'train_00001.jpg 5' or 'test_0001.jpg 5', found 'valid_0001.jpg 2'"),
        (["train_00001.jpg"], "line 1: expected 'train_00001.jpg 5'"),
        (["train_00001.jpg,5"], "found 'train_00001.jpg,5'"),
        (["../train_00001.jpg 5"], "found '../train_00001.jpg 5'"),
    ],
)
def test_a_damaged_label_file_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(SsferError, match=message) as error:
        open_kind("rafdb", write_files(tmp_path, files(lines)))
    assert "\n" not in str(error.value)


def test_photos_that_are_missing_keep_their_rows_unless_most_are(tmp_path: Path) -> None:
    lines = [*LINES, "train_00009.jpg 4", "test_0009.jpg 4"]
    source = open_kind("rafdb", write_files(tmp_path / "some", files(lines)))
    assert source.missing == ["Image/aligned/train_00009_aligned.jpg", "Image/aligned/test_0009_aligned.jpg"]
    assert [r.path for r in source.records()[-2:]] == source.missing
    lines += [f"train_0010{i}.jpg 4" for i in range(4)]
    with pytest.raises(SsferError, match=r"lists 11 images, 6 .* missing, .*'Image/aligned/train_00009_aligned.jpg'"):
        open_kind("rafdb", write_files(tmp_path / "most", files(lines)))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match=r"expected one EmoLabel/list_patition_label.txt .* found 0 among 1 files"):
        open_kind("rafdb", write_files(tmp_path / "a", {"aligned.zip": b""}))
    with pytest.raises(SsferError, match=r"RAF-DB's images in .*Image/aligned/ or .*aligned.zip, found neither"):
        open_kind("rafdb", write_files(tmp_path / "b", {LABELS: files()[LABELS]}))
    with pytest.raises(SsferError, match="not a text file"):
        open_kind("rafdb", write_files(tmp_path / "c", files() | {LABELS: b"\xff\xfe\x00"}))


FOLDERS = {
    "DATASET/train/5/train_00001_aligned.jpg": b"a",
    "DATASET/train/1/train_00002_aligned.jpg": b"b",
    "DATASET/test/2/test_0001_aligned.jpg": b"c",
    "train_labels.csv": b"image,label\ntrain_00001_aligned.jpg,5\n",
}


@pytest.mark.parametrize("part", ["valid", "Val", "dev", "PublicTest"])
def test_the_second_part_of_third_parties_is_the_test_part_whatever_its_name(tmp_path: Path, part: str) -> None:
    files = {name.replace("/test/", f"/{part}/"): data for name, data in FOLDERS.items()}
    source = open_kind("rafdb", write_files(tmp_path, files))
    assert sorted(r.usage for r in source.records()) == ["test", "train", "train"]
    assert SOURCES["rafdb"].recognize(sorted(files))


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_numbered_folders_of_third_parties(tmp_path: Path, form: str) -> None:
    source = open_kind("rafdb", write_as(form, tmp_path, FOLDERS))
    assert source.variant == "RAF-DB basic, aligned images in numbered folders of third parties"
    assert source.records() == [
        RawRecord("DATASET/test/2/test_0001_aligned.jpg", label="fear", usage="test"),
        RawRecord("DATASET/train/1/train_00002_aligned.jpg", label="surprise", usage="train"),
        RawRecord("DATASET/train/5/train_00001_aligned.jpg", label="sadness", usage="train"),
    ]
    assert [source.read(r) for r in source.records()] == [b"c", b"b", b"a"]
    assert expected(source.counts())["train", "fear"] == 281
    with pytest.raises(SsferError, match="aligned images in numbered folders, expected the original ones"):
        open_kind("rafdb", tmp_path / ("set" if form == "folder" else "set.zip"), images="original")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("DATASET/train/3/test_0002_aligned.jpg", "is an image of RAF-DB's test part in the folder 'train'"),
        (
            "DATASET/train/3/train_00001_aligned.jpg",
            "'train_00001_aligned.jpg' is there twice, as .*/3/.* and .*/5/",
        ),
        ("DATASET/train/8/train_00003_aligned.jpg", "expected every image .* found 'DATASET/train/8/train_00003"),
        ("DATASET/train/1/aug_17.jpg", "found 'DATASET/train/1/aug_17.jpg'; take it out"),
    ],
)
def test_mixed_up_copies_of_third_parties_are_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SsferError, match=message):
        open_kind("rafdb", write_files(tmp_path, FOLDERS | {name: b"x"}))


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        (sorted(files()), True),
        (["EmoLabel/list_patition_label.txt"], True),
        (sorted(FOLDERS), True),
        (["train/1/a.jpg", "test/1/b.jpg"], False),
        (["list_patition_label.txt"], False),
    ],
)
def test_what_is_taken_for_rafdb(names: list[str], answer: bool) -> None:
    assert SOURCES["rafdb"].recognize(names) is answer
