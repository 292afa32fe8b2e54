"""SFEW 2.0: whole photos and aligned faces, with and without a Test part."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.datasets import sfew
from ssfer.datasets.base import Count, RawRecord
from ssfer.datasets.registry import SOURCES
from tests.support.source_files import open_kind, write_as, write_files

FILES = {
    "Train/Angry/Film_000519240_00000005.png": b"1",
    "Train/Happy/Film_000519240_00000006.png": b"2",
    "Train/Sad/Film_000519240_00000007.png": b"3",
    "Val/Surprise/Other_000519240_00000005.png": b"4",
    "Val/Neutral/Other_000519240_00000006.png": b"5",
    "readme.txt": b"",
}
LABELED = [  # in sorted order of names
    ("Train/Angry/Film_000519240_00000005.png", "anger", "train"),
    ("Train/Happy/Film_000519240_00000006.png", "happiness", "train"),
    ("Train/Sad/Film_000519240_00000007.png", "sadness", "train"),
    ("Val/Neutral/Other_000519240_00000006.png", "neutral", "test"),
    ("Val/Surprise/Other_000519240_00000005.png", "surprise", "test"),
]


@pytest.mark.parametrize("prefix", ["", "SFEW_2/"])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_without_labels_of_test_the_val_part_tests(tmp_path: Path, form: str, prefix: str) -> None:
    source = open_kind("sfew", write_as(form, tmp_path, {prefix + name: data for name, data in FILES.items()}))
    assert source.records() == [RawRecord(prefix + name, label=label, usage=usage) for name, label, usage in LABELED]
    assert source.counts() == [Count("train", "images", 958, 3), Count("test", "images", 436, 2)]
    assert source.variant == "SFEW 2.0, whole photos"
    assert source.dropped["not_an_image"] == 1
    assert [source.read(r) for r in source.records()] == [b"1", b"2", b"3", b"5", b"4"]


def test_all_seven_classes_have_a_folder(tmp_path: Path) -> None:
    names = ["Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise"]
    source = open_kind("sfew", write_files(tmp_path, {f"Train/{name}/{i}.png": b"x" for i, name in enumerate(names)}))
    assert [r.label for r in source.records()] == [
        "anger",
        "disgust",
        "fear",
        "happiness",
        "neutral",
        "sadness",
        "surprise",
    ]


def test_test_photos_without_labels_are_left_out_and_counted(tmp_path: Path) -> None:
    source = open_kind("sfew", write_files(tmp_path, FILES | {"Test/a.png": b"", "Test/b.png": b""}))
    assert len(source.records()) == 5
    assert source.dropped["unlabeled_test"] == 2
    assert source.counts()[1:] == [Count("test", "images", 436, 2), Count("none", "images", 372, 2)]


def test_with_labels_of_test_the_val_part_validates(tmp_path: Path) -> None:
    source = open_kind("sfew", write_files(tmp_path, FILES | {"Test/Fear/a.png": b""}))
    assert [(r.label, r.usage) for r in source.records()] == [
        ("fear", "test"),
        ("anger", "train"),
        ("happiness", "train"),
        ("sadness", "train"),
        ("neutral", "valid"),
        ("surprise", "valid"),
    ]
    assert [(c.part, c.expected, c.found) for c in source.counts()] == [
        ("train", 958, 3),
        ("valid", 436, 2),
        ("test", 372, 1),
    ]


def test_aligned_faces_are_known_by_their_folder(tmp_path: Path) -> None:
    files = {
        name.replace("Train/", "Train_Aligned_Faces/").replace("Val/", "Val_Aligned_Faces_new/"): data
        for name, data in FILES.items()
    }
    source = open_kind("sfew", write_files(tmp_path, files | {"Test_Aligned_Faces/a.png": b""}))
    assert source.variant == "SFEW 2.0, aligned faces"
    # No number is published for aligned faces of Test.
    assert source.counts() == [Count("train", "images", 891, 3), Count("test", "images", 431, 2)]
    assert [r.label for r in source.records()] == [label for _, label, _ in LABELED]


def test_aligned_faces_are_known_by_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sfew, "ALIGNED", {"train": 3, "val": 2})
    source = open_kind("sfew", write_files(tmp_path, FILES))
    assert source.variant == "SFEW 2.0, aligned faces"
    assert all(c.expected == c.found for c in source.counts())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["Train/Happiness/a.png"],
            r"unknown class folder of SFEW .*'Happiness'; did you mean 'happy'\? \(known: an",
        ),
        (["Train/a.png"], "expected every photo of SFEW in .* found 'Train/a.png'; move or remove it"),
        (["Train/Angry/deep/a.png"], "found 'Train/Angry/deep/a.png'"),
        (["Trial/Angry/a.png"], "found 'Trial/Angry/a.png'"),
        (
            ["Train_Aligned_Faces/Angry/a.png"],
            "once in .* found Train and Train_Aligned_Faces; give a folder with either",
        ),
        (["old/Train/Angry/a.png"], "expected every part of SFEW once in .* found Train and old/Train"),
        (["Test/Fear/a.png", "Test/b.png"], "class folders for all or none of SFEW's Test photos in .* 1 of 2"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(SsferError, match=message) as error:
        open_kind("sfew", write_files(tmp_path, FILES | dict.fromkeys(names, b"x")))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        (sorted(FILES), True),
        ([f"SFEW_2/{name}" for name in sorted(FILES)], True),
        (["Train_Aligned_Faces/Angry/a.png"], True),
        (["Train/Angry/a.png"], False),
        (["train/angry/a.png", "val/angry/a.png"], False),  # how copies of FER2013 are arranged
        (["Train/Angry/a.jpg", "Val/Angry/a.jpg"], False),
    ],
)
def test_what_is_taken_for_sfew(names: list[str], answer: bool) -> None:
    assert SOURCES["sfew"].recognize(names) is answer
