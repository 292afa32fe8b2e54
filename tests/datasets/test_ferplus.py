"""FERPlus as its authors' script exports it, and what is published about it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.datasets.base import Count
from ssfer.datasets.ferplus import PUBLISHED
from ssfer.datasets.registry import SOURCES, open_source
from tests.support.ferplus_fakes import BOX, ROWS, TRAIN_ROWS, VALID_ROWS, ferplus_files, kept, new_labels
from tests.support.source_files import entry, open_kind, png, write_files, write_zip


def write_ferplus(root: Path, layout: str) -> Path:
    parts = {part: ROWS[part] for part in ("FER2013Train", "FER2013Valid")}
    for part, rows in parts.items():
        if layout == "folders":
            write_files(root, ferplus_files(part, rows))
        elif layout != "one_zip":
            write_zip(root / f"{part}.zip", ferplus_files(part, rows, prefix=layout == "zips"))
    if layout == "one_zip":
        files = {name: data for part, rows in parts.items() for name, data in ferplus_files(part, rows).items()}
        return write_zip(root / "all.zip", {f"export/{name}": data for name, data in files.items()})
    return root


@pytest.mark.parametrize("layout", ["folders", "zips", "bare_zips", "one_zip"])
def test_layouts_and_the_default_rule(tmp_path: Path, layout: str) -> None:
    path = write_ferplus(tmp_path, layout)
    params = entry("ferplus", path.name, counts="any")
    source = open_source(params, path.parent)
    assert list(source.records()) == kept("FER2013Train", "FER2013Valid")
    assert dict(source.dropped) == {"unknown": 1, "NF": 1, "no_name": 1}
    assert source.variant == "FERPlus export, labels of label.csv by plurality"
    assert source.read(source.records()[-1]) == png(0)
    assert source.read(source.records()[2]) == png(2)
    assert len({source.stamp(r) for r in source.records()[:-1]}) > 1


def test_images_that_are_missing_keep_their_rows_unless_most_are(tmp_path: Path) -> None:
    files = ferplus_files("FER2013Train", TRAIN_ROWS)
    images = [record.path for record in kept("FER2013Train")]
    del files[images[0]]
    source = open_kind("ferplus", write_files(tmp_path / "some", files))
    assert ([r.path for r in source.records()], source.missing) == (images, images[:1])
    for image in images[1:]:
        del files[image]
    with pytest.raises(
        SsferError, match=r"label.csv lists 8 images, \d of them are missing, the first is 'FER2013Train/"
    ):
        open_kind("ferplus", write_files(tmp_path / "most", files))


def test_ties_are_reported(tmp_path: Path) -> None:
    source = open_kind("ferplus", write_ferplus(tmp_path, "folders"))
    assert source.notes == ["2 images have several classes with the most votes; FERPlus's first one is taken"]
    assert open_kind("ferplus", tmp_path, rule="majority").notes == []


@pytest.mark.parametrize("form", ["folder", "zip", "bare_zip"])
def test_one_part_is_enough(tmp_path: Path, form: str) -> None:
    if form == "folder":
        path = write_files(tmp_path / "FER2013Valid", ferplus_files("FER2013Valid", VALID_ROWS, prefix=False))
    else:
        files = ferplus_files("FER2013Valid", VALID_ROWS, prefix=form == "zip")
        path = write_zip(tmp_path / "FER2013Valid.zip", files)
    source = open_kind("ferplus", path)
    assert list(source.records()) == kept("FER2013Valid")
    assert source.read(source.records()[0]) == png(0)
    assert source.counts() == [Count("test", "images", 3555, 1)]  # nothing about parts that are not there


def test_no_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match="found no part of FERPlus"):
        open_kind("ferplus", tmp_path)


def test_a_part_given_twice_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, ferplus_files("FER2013Train", TRAIN_ROWS))
    write_zip(tmp_path / "FER2013Train.zip", ferplus_files("FER2013Train", TRAIN_ROWS))
    with pytest.raises(SsferError, match="a folder and a zip"):
        open_kind("ferplus", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("FER2013Train/label.csv"), r"expected label.csv .* found none among 7 files"),
        (lambda f: f.update({"FER2013Train/label.csv": b"a.png,1,2\n"}), "line 1: expected 12 columns .* found 3"),
        (
            lambda f: f.update({"FER2013Train/label.csv": b"Usage,Image name" + b",v" * 10 + b"\n"}),
            "line 1: expected ten counts of votes, found v, v",
        ),
        (lambda f: f.update({"FER2013Train/label.csv": b"x.png,b,-1" + b",1" * 9}), "expected ten counts of votes"),
        (lambda f: f.update({"FER2013Train/label.csv": b"\xff\xfe\x00binary"}), "not a text file"),
        (lambda f: f.update({"FER2013Train/label.csv": b"x" * 70_000}), "line 1: longer than 65536 bytes"),
        (lambda f: f.update({"FER2013Train/label.csv": b"a,b\rc,d\n"}), "line 1: not a row of a table"),
        (
            lambda f: f.update(
                {"FER2013Train/label.csv": 2 * (f'fer0000000.png,"{BOX}",9' + ",0" * 9 + "\n").encode()}
            ),
            "line 2: image 'fer0000000.png' is listed twice",
        ),
    ],
)
def test_mistakes_get_one_sentence(tmp_path: Path, change: object, message: str) -> None:
    files = ferplus_files("FER2013Train", TRAIN_ROWS)
    change(files)
    with pytest.raises(SsferError, match=message) as error:
        open_kind("ferplus", write_files(tmp_path, files))
    assert "\n" not in str(error.value)


def test_test_parts_test_and_the_others_validate(tmp_path: Path) -> None:
    for part, rows in ROWS.items():
        write_files(tmp_path, ferplus_files(part, rows))
    usages = {
        test: [r.usage for r in open_kind("ferplus", tmp_path, test=test).records()][-2:]
        for test in (("FER2013Valid", "FER2013Test"), ("FER2013Test",), ("FER2013Valid",))
    }
    assert list(usages.values()) == [["test", "test"], ["valid", "test"], ["test", "valid"]]


@pytest.mark.parametrize(
    ("label_source", "rule", "numbers"),
    [  # published; train, PublicTest, PrivateTest
        ("label.csv", "majority", (25_045, 3_191, 3_137)),
        ("fer2013new.csv", "majority", (25_060, 3_199, 3_153)),
        ("fer2013new.csv", "plurality", (28_389, 3_553, 3_546)),
        ("fer2013new.csv", "argmax8", (28_559, 3_579, 3_573)),
        ("fer2013new.csv", "raw_majority", (21_811, 2_862, 2_729)),
    ],
)
def test_published_numbers_follow_label_source_rule_and_parts(
    tmp_path: Path, label_source: str, rule: str, numbers: tuple[int, int, int]
) -> None:
    for part, rows in ROWS.items():
        write_files(tmp_path, ferplus_files(part, rows))
    write_files(tmp_path, {"fer2013new.csv": new_labels()})
    train, valid, test = numbers
    merged = open_kind("ferplus", tmp_path, label_source=label_source, rule=rule)
    assert [(c.part, c.name, c.expected) for c in merged.counts()] == [
        ("train", "images", train),
        ("test", "images", valid + test),
    ]
    split = open_kind("ferplus", tmp_path, label_source=label_source, rule=rule, test=("FER2013Test",))
    assert [(c.part, c.expected) for c in split.counts()] == [("train", train), ("valid", valid), ("test", test)]
    found = {"majority": (1, 1, 1), "raw_majority": (1, 1, 1), "plurality": (5, 1, 1), "argmax8": (6, 1, 1)}
    assert tuple(c.found for c in split.counts()) == found[rule]


def test_a_part_of_unknown_size_gives_its_usage_no_number(tmp_path: Path) -> None:
    for part, rows in ROWS.items():
        write_files(tmp_path, ferplus_files(part, rows))
    assert "FER2013Test" not in PUBLISHED["label.csv", "plurality"]
    assert [(c.part, c.expected) for c in open_kind("ferplus", tmp_path).counts()] == [("train", 28_385)]


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        (["FER2013Train.zip", "FER2013Valid.zip"], True),
        (["export/FER2013Test/fer0000000.png"], True),
        (["fer0028638.png", "label.csv"], True),
        (["data/icml_face_data.csv"], True),
        (["a.png", "label.csv"], False),
        (["MyFER2013Train/a.png"], False),
    ],
)
def test_what_is_taken_for_ferplus(names: list[str], answer: bool) -> None:
    assert SOURCES["ferplus"].recognize(names) is answer


def test_damaged_label_file_in_a_zip_is_one_sentence(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "FER2013Train.zip", ferplus_files("FER2013Train", TRAIN_ROWS))
    with zipfile.ZipFile(path) as archive:
        member = next(m for m in archive.infolist() if m.filename.endswith("label.csv"))
    data = bytearray(path.read_bytes())
    start = member.header_offset + 30 + len(member.filename)
    data[start : start + 8] = bytes(b ^ 0xFF for b in data[start : start + 8])
    path.write_bytes(data)
    with pytest.raises(SsferError, match=r"cannot read 'FER2013Train/label\.csv' in .*FER2013Train\.zip .*again"):
        open_kind("ferplus", tmp_path)
