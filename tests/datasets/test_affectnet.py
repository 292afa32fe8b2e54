"""AffectNet's two official forms, in folders and zips, and what goes wrong with them."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from ssfer.core.errors import SsferError
from ssfer.datasets.base import Count, RawRecord
from ssfer.datasets.registry import SOURCES
from ssfer.datasets.shared.npy_scalar import read_integer
from tests.support.source_files import expected, found, open_kind, write_as, write_files

HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"  # as it is
)
CLASSES = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"]


def row(name: str, expression: int | str, box: str = "20,30,100,110") -> str:
    return f"{name},{box},1.5;2.5;3.5;4.5,{expression},-0.2,0.3"


TRAINING = [row(f"{i}/aa{i}.jpg", i) for i in range(11)]
VALIDATION = [row("7/bb0.jpg", 7), row("0/bb1.JPG", 0, "0,0,12.5,20")]


def photos(
    training: list[str] = TRAINING, validation: list[str] = VALIDATION, header: bool = True, tables: str = ""
) -> dict[str, bytes]:
    """The form of whole photos; a photo's bytes are its name."""
    names = [line.split(",")[0] for line in TRAINING + VALIDATION]
    head = [HEADER] * header
    return {
        f"{tables}training.csv": "\n".join([HEADER, *training]).encode(),
        f"{tables}validation.csv": "\r\n".join([*head, *validation]).encode(),
        **{f"Manually_Annotated_Images/{name}": name.encode() for name in names},
    }


def record(name: str, label: str, usage: str, face: tuple[float, ...] = (20, 30, 120, 140)) -> RawRecord:
    return RawRecord(name, label=label, usage=usage, face=face)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_whole_photos_with_their_face_boxes(tmp_path: Path, form: str, header: bool) -> None:
    files = photos(header=header, tables="Manually_Annotated_file_lists/")
    source = open_kind(
        "affectnet", write_as(form, tmp_path, {f"AffectNet/{name}": data for name, data in files.items()})
    )
    root = "AffectNet/Manually_Annotated_Images/"
    assert source.records() == [
        *(record(f"{root}{i}/aa{i}.jpg", label, "train") for i, label in enumerate(CLASSES)),
        record(root + "7/bb0.jpg", "contempt", "test"),
        record(root + "0/bb1.JPG", "neutral", "test", (0, 0, 12.5, 20)),
    ]
    left_out = {reason: n for reason, n in source.dropped.items() if n}
    assert left_out == {"none": 1, "uncertain": 1, "non_face": 1}
    assert source.read(source.records()[-1]) == b"0/bb1.JPG"
    assert source.variant == "AffectNet, whole photos (csv), 8 classes"


def test_seven_classes_are_without_contempt(tmp_path: Path) -> None:
    source = open_kind("affectnet", write_files(tmp_path, photos()), classes=7)
    assert {r.label for r in source.records()} == set(CLASSES) - {"contempt"}
    assert source.dropped["contempt"] == 2
    numbers = expected(source.counts())
    assert sum(n for (part, _), n in numbers.items() if part == "train") == 283_901
    assert sum(n for (part, _), n in numbers.items() if part == "test") == 3_500
    assert not any(name == "contempt" for _, name in numbers)


def test_published_numbers_of_whole_photos(tmp_path: Path) -> None:
    counts = open_kind("affectnet", write_files(tmp_path, photos())).counts()
    train = dict(zip(CLASSES, (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750), strict=True))
    assert expected(counts) == {("train", c): n for c, n in train.items()} | {("test", c): 500 for c in CLASSES}
    assert sum(train.values()) == 287_651
    assert found(counts) == {("train", c): 1 for c in CLASSES} | {("test", "contempt"): 1, ("test", "neutral"): 1}


def test_tables_may_lie_in_the_folder_of_the_photos(tmp_path: Path) -> None:
    files = {name.removeprefix("Manually_Annotated_Images/"): data for name, data in photos().items()}
    source = open_kind("affectnet", write_files(tmp_path, files))
    assert source.records()[2].path == "2/aa2.jpg"
    assert source.read(source.records()[2]) == b"2/aa2.jpg"


def test_automatic_labels_are_left_out_and_files_without_a_row_counted(tmp_path: Path) -> None:
    files = photos() | {
        "Automatically_Annotated_Images/1/cc.jpg": b"",
        "Automatically_Annotated_file_lists/training.csv": b"",
        "Manually_Annotated_Images/5/unlisted.png": b"",
        "Manually_Annotated_Images/5/notes.txt": b"",
    }
    source = open_kind("affectnet", write_files(tmp_path, files))
    assert len(source.records()) == 10
    assert (source.dropped["automatically_annotated"], source.dropped["not_listed"]) == (1, 1)


def test_columns_go_by_name(tmp_path: Path) -> None:
    lines = ["expression,face_width,face_height,face_x,face_y,subDirectory_filePath", "6,3,4,1,2,6/aa6.jpg"]
    source = open_kind("affectnet", write_files(tmp_path, photos() | {"training.csv": "\n".join(lines).encode()}))
    assert source.records()[0] == record("Manually_Annotated_Images/6/aa6.jpg", "anger", "train", (1, 2, 4, 6))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ([*TRAINING, TRAINING[4]], r"training.csv, line 13: image '4/aa4.jpg' is listed twice"),
        ([*TRAINING, VALIDATION[0]], r"validation.csv, line 2: image '7/bb0.jpg' is listed twice"),
        ([row("0/aa0.jpg", 11)], "line 2: expected an expression from 0 to 10, found 11"),
        ([row("0/aa0.jpg", "happy")], "line 2: expected an expression from 0 to 10, found 'happy'"),
        ([row("0/aa0.jpg", 1, "1,2,0,5")], "line 2: expected a face box .* found 1, 2, 0, 5"),
        ([row("0/aa0.jpg", 1, "NULL,2,3,5")], "expected a face box .* found NULL, 2, 3, 5"),
        ([row("0/aa0.jpg", 1, "nan,2,3,5")], "expected a face box"),
        (["0/aa0.jpg,1"], r"line 2: expected 9 columns \(subDirectory_filePath, ...\), found 2"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, training: list[str], message: str) -> None:
    with pytest.raises(SsferError, match=message) as error:
        open_kind("affectnet", write_files(tmp_path, photos(training)))
    assert "\n" not in str(error.value)


def test_photos_that_are_missing_keep_their_rows_unless_most_are(tmp_path: Path) -> None:
    lines = [*TRAINING, row("3/zz.jpg", 1), row("4/zz.jpg", 2)]
    source = open_kind("affectnet", write_files(tmp_path / "some", photos(lines)))
    assert source.missing == ["Manually_Annotated_Images/3/zz.jpg", "Manually_Annotated_Images/4/zz.jpg"]
    assert len(source.records()) == 12
    lines += [row(f"5/{i}.jpg", 1) for i in range(8)]
    with pytest.raises(SsferError, match=r"lists 20 images, 10 of them are missing.*'Manually_.*/3/zz.jpg'"):
        open_kind("affectnet", write_files(tmp_path / "most", photos(lines)))
    with pytest.raises(SsferError, match=r"lists .*/\.\./\.\./\.\./x\.jpg', which is not inside the data set"):
        open_kind("affectnet", write_files(tmp_path / "out", photos([*TRAINING, row("../../../x.jpg", 1)])))


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match=r"validation.csv is not a text file \(line 1\)"):
        open_kind("affectnet", write_files(tmp_path, photos() | {"validation.csv": b"\xff\xfe"}))


def npy(value: object) -> bytes:
    buffer = BytesIO()
    np.save(buffer, np.asarray(value))
    return buffer.getvalue()


def faces() -> dict[str, bytes]:
    """The form of 2021, with annotations as text and as numbers."""
    result = {}
    for folder, ids in (("train_set", range(8)), ("val_set", (1, 7, 20))):
        for i in ids:
            code = min(i, 8)
            result[f"{folder}/images/{i}.jpg"] = f"{folder} {i}".encode()
            result[f"{folder}/annotations/{i}_exp.npy"] = npy(str(code) if i % 2 else code)
            for other in ("aro", "val", "lnd"):
                result[f"{folder}/annotations/{i}_{other}.npy"] = b"never read"
    return result


@pytest.mark.parametrize("prefix", ["", "AffectNet/"])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_faces_of_2021(tmp_path: Path, form: str, prefix: str) -> None:
    source = open_kind("affectnet", write_as(form, tmp_path, {prefix + name: data for name, data in faces().items()}))
    assert source.records() == [
        *(RawRecord(f"{prefix}train_set/images/{i}.jpg", label=c, usage="train") for i, c in enumerate(CLASSES)),
        RawRecord(f"{prefix}val_set/images/1.jpg", label="happiness", usage="test"),
        RawRecord(f"{prefix}val_set/images/7.jpg", label="contempt", usage="test"),
    ]
    assert {reason: n for reason, n in source.dropped.items() if n} == {"none": 1}
    assert source.read(source.records()[8]) == b"val_set 1"
    assert source.variant == "AffectNet, faces of 2021 (npy), 8 classes"


def test_faces_that_are_missing_keep_their_rows(tmp_path: Path) -> None:
    files = {name: data for name, data in faces().items() if name != "val_set/images/1.jpg"}
    source = open_kind("affectnet", write_files(tmp_path, files))
    assert (source.missing, len(source.records())) == (["val_set/images/1.jpg"], 10)


@pytest.mark.parametrize("classes", [7, 8])
def test_published_numbers_of_the_faces(tmp_path: Path, classes: int) -> None:
    source = open_kind("affectnet", write_files(tmp_path, faces()), classes=classes)
    counts = source.counts()
    # The published number is of eight classes, so contempt is in it even when it is left out.
    assert counts[-1] == Count("test", "images of 8 classes", 3_999, 2)
    assert sum(c.expected for c in counts[:-1]) == (287_651 if classes == 8 else 283_901)
    assert {c.found for c in counts[:-1]} == {1}
    assert source.dropped["contempt"] == (0 if classes == 8 else 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_set/annotations/1_exp.npy": npy("12")}, r"1_exp.npy: expected an expression from 0 to 10, found 12"),
        ({"val_set/annotations/1_exp.npy": npy(1).replace(b"}", b" ")}, r"none \(its header cannot be read"),
        ({"val_set/annotations/1_exp.npy": b""}, r"number of an expression in val_set/annotations/1_exp.npy"),
        ({"val_set/annotations/1_exp.npy": npy([1, 2])}, r"is not one number\); get it again"),
        ({"val_set/annotations/1_exp.npy": npy("happy")}, "found a file that has none"),
        (
            {"b/val_set/annotations/1_exp.npy": npy(1)},
            "each of train_set and val_set once .* b/val_set/, train",
        ),
        ({"val_set/images/1.png": b""}, "one image per annotation, found 'val_set/images/1.jpg' and .*1.png'"),
        ({"training.csv": b""}, "expected AffectNet in .* found both"),
    ],
)
def test_damaged_faces_are_refused(tmp_path: Path, change: dict[str, bytes | None], message: str) -> None:
    files = {name: data for name, data in (faces() | change).items() if data is not None}
    with pytest.raises(SsferError, match=message) as error:
        open_kind("affectnet", write_files(tmp_path, files))
    assert "\n" not in str(error.value)


def test_images_without_an_annotation_are_counted(tmp_path: Path) -> None:
    source = open_kind("affectnet", write_files(tmp_path, faces() | {"train_set/images/99.jpg": b"x"}))
    assert source.dropped["not_listed"] == 1
    assert len(source.records()) == 10


@pytest.mark.parametrize("value", ["3", b"3", 3, 3.0, np.uint8(3), ["3"], np.float32(3), " 3"])
def test_one_number_is_read_in_whatever_type_it_was_saved(value: object) -> None:
    assert read_integer(npy(value)) == 3


def header_of(shape: str, dtype: str) -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        npy("3")[:-2],
        npy(3.5),
        npy(float("nan")),
        npy([]),
        npy(True),
        header_of("(1000000000000,)", "<i8"),  # memory for this must not be asked for
        header_of("()", "<U1000000000"),
        header_of("()", "|O") + pickle.dumps("3"),
        b"\x93NUMPY\x09\x00" + bytes(100),
        npy(3) + bytes(5000),
    ],
)
def test_anything_else_is_no_number(data: bytes) -> None:
    with pytest.raises(ValueError, match=".+"):
        read_integer(data)


def test_neither_form_is_refused_and_several_tables(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match="expected AffectNet in .* found neither among 1 files"):
        open_kind("affectnet", write_files(tmp_path / "a", {"anger/1.jpg": b""}))
    with pytest.raises(SsferError, match=r"expected one training.csv in .* found .*, .*; keep one of them"):
        open_kind("affectnet", write_files(tmp_path / "b", photos() | {"old/training.csv": b""}))
    with pytest.raises(SsferError, match="expected one folder Manually_Annotated_Images/ in .* found 2"):
        open_kind("affectnet", write_files(tmp_path / "c", photos() | {"old/Manually_Annotated_Images/1.jpg": b""}))


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        (sorted(photos()), True),
        (["a/train_set/annotations/0_aro.npy", "a/train_set/annotations/0_exp.npy"], True),
        (["data/training.csv", "data/validation.csv"], True),
        (["data/training.csv", "data/1/a.jpg"], False),
        (["train_set/anger/a.jpg"], False),
    ],
)
def test_what_is_taken_for_affectnet(names: list[str], answer: bool) -> None:
    assert SOURCES["affectnet"].recognize(names) is answer
