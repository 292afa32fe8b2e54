"""The importer for <usage>/<class name>/<photo>: names decide, mistakes are named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.datasets.registry import SOURCES, open_source
from tests.support.source_files import entry, open_kind, write_as, write_files

FILES = {
    "train/anger/b.jpg": b"one",
    "train/anger/a.JPG": b"two",
    "train/Happiness/deep/er/c.png": b"three",
    "valid/fear/d.jpg": b"four",
    "Test/NEUTRAL/a.jpg": b"five",
    "train/anger/notes.txt": b"no photo",
}
EXPECTED = [  # in sorted order of names
    ("Test/NEUTRAL/a.jpg", "neutral", "test", b"five"),
    ("train/Happiness/deep/er/c.png", "happiness", "train", b"three"),
    ("train/anger/a.JPG", "anger", "train", b"two"),
    ("train/anger/b.jpg", "anger", "train", b"one"),
    ("valid/fear/d.jpg", "fear", "valid", b"four"),
]


@pytest.mark.parametrize("prefix", ["", "rafdb/"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_folder_names_become_labels_and_usages(tmp_path: Path, kind: str, prefix: str) -> None:
    source = open_kind("class_folders", write_as(kind, tmp_path, {prefix + name: data for name, data in FILES.items()}))
    assert source.variant == "<part>/<class name>/<photo>"
    found = [(r.path, r.label, r.usage, source.read(r)) for r in source.records()]
    assert found == [(prefix + path, *rest) for path, *rest in EXPECTED]
    assert source.dropped["not_an_image"] == 1


def test_stamp_changes_with_the_bytes(tmp_path: Path) -> None:
    path = write_files(tmp_path, FILES)
    source = open_kind("class_folders", path)
    record = source.records()[2]
    before = source.stamp(record)
    (path / record.path).write_bytes(b"another size")
    assert source.stamp(record) != before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train/4/a.jpg"],
            r"folders named 4; .* labels: \{'4': fear\}\. Numbers .*RAF-DB: 1 surprise.*AffectNet: 0 n",
        ),
        (["train/anger/a.jpg", "trian/fear/a.jpg"], r"found 'trian/fear/a.jpg'; move or remove it"),
        (["train/anger/a.jpg", "train/b.jpg"], r"found 'train/b.jpg'; move or remove it"),
        (["a.jpg"], r"found 'a.jpg'; move or remove it"),
        (["test/anger/a.jpg"], r"has no training part, only"),
        (["train/anger/a.txt"], r"found 0 photos and none there"),
        (
            ["Angry/loose.jpg", *(f"{c}/{part}/a.jpg" for c in ("Angry", "Sad") for part in ("train", "test"))],
            r"4 photos of .* lie in test, train inside of their class folders and 1 outside, such as 'Angry/l",
        ),
        (
            [f"{c}/{part}/a.jpg" for c in ("Angry", "Sad") for part in ("train", "test", "extra")],
            r"2 outside, such as 'Angry/extra/a.jpg'; move or remove what is outside",
        ),
    ],
)
def test_another_layout_is_refused_with_what_was_found(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(SsferError, match=message):
        open_kind("class_folders", write_files(tmp_path, dict.fromkeys(names, b"x")))


FLAT = {"Anger/a.jpg": b"1", "fear/deep/b.png": b"2", "fear/c.png": b"3", "notes.txt": b""}


@pytest.mark.parametrize("prefix", ["", "mine/"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_without_usage_folders_everything_trains(tmp_path: Path, kind: str, prefix: str) -> None:
    source = open_kind("class_folders", write_as(kind, tmp_path, {prefix + name: data for name, data in FLAT.items()}))
    assert [(r.path, r.label, r.usage, source.read(r)) for r in source.records()] == [
        (prefix + "Anger/a.jpg", "anger", "train", b"1"),
        (prefix + "fear/c.png", "fear", "train", b"3"),
        (prefix + "fear/deep/b.png", "fear", "train", b"2"),
    ]
    assert source.variant == "<class name>/<photo>, all for training"


def test_one_class_folder_is_no_folder_around_everything(tmp_path: Path) -> None:
    source = open_kind("class_folders", write_files(tmp_path, {"fear/a/1.png": b"", "fear/b/2.png": b""}))
    assert {(r.label, r.usage) for r in source.records()} == {("fear", "train")}


@pytest.mark.parametrize("usage", ["", "test/"])
def test_other_folder_names_are_translated(tmp_path: Path, usage: str) -> None:
    names = ["train/0/a.jpg", "train/Happy/b.jpg", "train/fear/c.jpg", "test/happy/d.jpg"]
    names = names if usage else [name.partition("/")[2] for name in names]
    labels = {"0": "anger", "happy": "happiness"}
    source = open_kind("class_folders", write_files(tmp_path, dict.fromkeys(names, b"x")), labels=labels)
    assert {r.path.rpartition("/")[2]: (r.label, r.usage) for r in source.records()} == {
        "a.jpg": ("anger", "train"),
        "b.jpg": ("happiness", "train"),
        "c.jpg": ("fear", "train"),
        "d.jpg": ("happiness", "test" if usage else "train"),
    }


def test_other_classes_have_the_names_of_their_folders(tmp_path: Path) -> None:
    names = ("Smiling/a.jpg", "Freude/b.jpg", "\u7b11\u3044/c.jpg", "x/d.jpg", "fear/e.jpg")
    files = dict.fromkeys(names, b"")
    source = open_kind("class_folders", write_files(tmp_path, files), labels={"X": None, "freude": "Happy"})
    assert {r.path[-5:]: r.label for r in source.records()} == {
        "a.jpg": "smiling",
        "b.jpg": "happiness",
        "c.jpg": "\u7b11\u3044",
        "e.jpg": "fear",
    }
    assert source.dropped["left_out_by_labels"] == 1


@pytest.mark.parametrize(
    ("train", "other", "usage"),
    [
        ("train", "valid", "test"),
        ("Training", "VAL", "test"),
        ("train", "dev", "test"),
        ("train", "Testing", "test"),
        ("Train Set", "val_images", "test"),
        ("trn", "eval", "test"),
        ("01_train", "02-val", "test"),
    ],
)
def test_second_part_is_the_test_part_whatever_its_name(tmp_path: Path, train: str, other: str, usage: str) -> None:
    source = open_kind("class_folders", write_files(tmp_path, {f"{train}/happy/a.jpg": b"", f"{other}/sad/b.jpg": b""}))
    assert {(r.label, r.usage) for r in source.records()} == {("happiness", "train"), ("sadness", usage)}
    said = f"'{other}' is taken as the test part" if other != "Testing" else ""
    assert source.notes[-1] == "words that are understood: 'happy' is happiness, 'sad' is sadness"
    assert "".join(source.notes[:-1]).startswith(said) and bool(source.notes[:-1]) == bool(said)


def test_of_three_parts_the_validation_part_stays_one(tmp_path: Path) -> None:
    files = {f"{part}/fear/a.jpg": b"" for part in ("Training", "PublicTest", "PrivateTest")}
    source = open_kind("class_folders", write_files(tmp_path, files))
    assert [r.usage for r in source.records()] == ["test", "valid", "train"]


def test_classes_may_hold_the_parts(tmp_path: Path) -> None:
    files = {f"{name}/{part}/a.jpg": b"" for name in ("0_angry", "1. calm") for part in ("train", "Test")}
    source = open_kind("class_folders", write_files(tmp_path, files))
    assert {(r.path[:3], r.label, r.usage) for r in source.records()} == {
        ("0_a", "anger", "train"), ("0_a", "anger", "test"), ("1. ", "1. calm", "train"), ("1. ", "1. calm", "test")
    }  # fmt: skip
    assert source.notes == ["words that are understood: '0_angry' is anger"]
    assert SOURCES["class_folders"].recognize(sorted(files))
    assert not SOURCES["class_folders"].recognize(["data/images/train/happy/a.jpg", "data/images/val/sad/a.jpg"])


def test_classes_may_hold_the_parts_beside_unlabeled_photos_and_with_folders_of_people_in_them(tmp_path: Path) -> None:
    files = {f"{name}/{part}/ann/a.jpg": b"" for name in ("Angry", "Sad") for part in ("train", "test")}
    source = open_kind("class_folders", write_files(tmp_path, {**files, "unlabeled/b.jpg": b""}))
    assert Counter((r.label, r.usage) for r in source.records()) == Counter(
        {
            ("anger", "train"): 1,
            ("anger", "test"): 1,
            ("sadness", "train"): 1,
            ("sadness", "test"): 1,
            (None, "none"): 1,
        }
    )
    sets = [f"{name}/{part}/happy/a.jpg" for name in ("one", "two") for part in ("train", "test")]
    assert not SOURCES["class_folders"].recognize(sets), "two data sets"


@pytest.mark.parametrize("part", ["", "train/", "labeled/"])
def test_folder_of_unlabeled_photos_is_no_class(tmp_path: Path, part: str) -> None:
    files = dict.fromkeys(
        [f"{part}happy/a.jpg", f"{part}sad/b.jpg", "Unlabelled_data/c.jpg", "Unlabelled_data/x/d.jpg"], b""
    )
    assert SOURCES["class_folders"].recognize(sorted(files))
    source = open_kind("class_folders", write_files(tmp_path, files))
    assert [(r.label, r.usage) for r in source.records()] == [
        (None, "none"), (None, "none"), ("happiness", "train"), ("sadness", "train")
    ]  # fmt: skip
    assert source.notes[0] == "2 of 4 photos lie in a folder for photos without a label"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"0": "anger"},
            r"class folders named 1; say what they mean in the source's 'labels', e.g. labels: \{'1': ",
        ),
        ({"a": "anger", "A": "fear"}, "'labels' has 'a' twice"),
    ],
)
def test_mistakes_in_labels_are_named(tmp_path: Path, labels: dict[str, str], message: str) -> None:
    with pytest.raises(SsferError, match=message):
        open_kind("class_folders", write_files(tmp_path, {"train/0/a.jpg": b"", "train/1/a.jpg": b""}), labels=labels)


def test_params_open_it(tmp_path: Path) -> None:
    write_files(tmp_path / "set", FILES)
    params = entry("class_folders")
    source = open_source(params, tmp_path)
    assert len(source.records()) == 5
    assert source.counts() == []


def test_folders_that_become_one_class_are_said(tmp_path: Path) -> None:
    twins = ["caf\u00e9", "cafe\u0301"]  # one word, written in two ways
    names = ["Angry", "anger", "FEAR", *twins]
    source = open_kind("class_folders", write_files(tmp_path, {f"{name}/{i}.jpg": b"" for i, name in enumerate(names)}))
    assert source.notes == [
        "labels that are one class: 'anger' and 'angry' become anger; 'cafe\\u0301' and 'caf\u00e9' become caf\u00e9"
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train/fe\x1bar/a.jpg": b""}, r"control characters, 'fe\\x1bar'; rename it"),
    ],
)
def test_odd_folders_get_a_sentence_of_their_own(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(SsferError, match=message):
        open_kind("class_folders", write_files(tmp_path, files))


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        (sorted(FILES), True),
        (["set/train/anger/a.jpg", "set/train/happy/a.jpg"], True),  # refused later, with the known names
        (["train/0/a.jpg", "test/6/a.jpg"], True),
        (["anger/a.jpg", "happy/a.jpg"], True),
        (["0/a.jpg", "1/a.jpg"], False),
        (["train/n000001/a.jpg"], False),
        ([*(f"Person_{i}/a.jpg" for i in range(30)), "Joy/a.jpg", "fear/a.jpg"], False),
        (["anger/a.txt"], False),
        (["calm/a.jpg", "smiling face/a.jpg", "unlabeled/b.jpg"], True),
        (["Person_A/a.jpg", "Person_B/a.jpg", "unlabeled/b.jpg"], False),
        (["set/calm/a.jpg", "set/smiling/a.jpg", "unlabeled/b.jpg"], False),
        (
            [*(f"all/{s}/{p}/angry/a.jpg" for s in ("one", "two") for p in ("train", "test")), "all/unlabeled/b.jpg"],
            False,
        ),
        (["train/a.jpg", *(f"train/anger/{i}.jpg" for i in range(9))], True),  # refused later, with the stray photo
        (["train/a.jpg", "train/b.jpg", *(f"train/anger/{i}.jpg" for i in range(9))], False),
    ],
)
def test_what_is_taken_for_class_folders(names: list[str], answer: bool) -> None:
    assert SOURCES["class_folders"].recognize(names) is answer
