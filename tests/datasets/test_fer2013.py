"""FER2013's csv of pixels, with its own labels and with those of fer2013new.csv."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from ssfer.core.errors import SsferError
from ssfer.datasets.registry import open_source
from tests.support.ferplus_fakes import ROWS, fer2013_rows, ferplus_files, kept, new_labels, pixel_csv
from tests.support.source_files import entry, open_kind, png, write_files, write_zip


def pixels_of(data: bytes) -> bytes:
    with Image.open(BytesIO(data)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (48, 48))
        return image.tobytes()


@pytest.mark.parametrize("name", ["fer2013.csv", "icml_face_data.csv"])
def test_pixels_and_new_labels_belong_together_by_row(tmp_path: Path, name: str) -> None:
    write_files(tmp_path, {f"fer2013/{name}": pixel_csv(name), "fer2013new.csv": new_labels()})
    source = open_kind("ferplus", tmp_path, label_source="fer2013new.csv")
    assert list(source.records()) == kept(*ROWS)
    assert dict(source.dropped) == {"unknown": 1, "NF": 1, "no_name": 1}
    assert source.variant == f"FER2013 ({name}), labels of fer2013new.csv by plurality"
    numbers = [0, 1, 2, 4, 7, 8, 9]  # of the rows that are kept
    assert [pixels_of(source.read(r)) for r in source.records()] == [fer2013_rows()[i][2] for i in numbers]
    assert len({source.stamp(r) for r in source.records()}) == 7


@pytest.mark.parametrize("name", ["fer2013.csv", "icml_face_data.csv"])
def test_labels_of_fer2013_itself(tmp_path: Path, name: str) -> None:
    write_files(tmp_path, {name: pixel_csv(name)})
    for path in (tmp_path, tmp_path / name):
        source = open_kind("ferplus", path, label_source="fer2013.csv", test=("FER2013Test",))
        assert [(r.path, r.label, r.usage, r.votes) for r in source.records()][:2] == [
            ("FER2013Train/row00000.png", "anger", "train", None),
            ("FER2013Train/row00001.png", "disgust", "train", None),
        ]
        names = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral", "anger", "disgust", "fear"]
        assert [r.label for r in source.records()] == names
        assert [r.usage for r in source.records()] == ["train"] * 8 + ["valid", "test"]
        assert pixels_of(source.read(source.records()[9])) == fer2013_rows()[9][2]
        assert [(c.part, c.expected, c.found) for c in source.counts()] == [
            ("train", 28_709, 8),
            ("valid", 3_589, 1),
            ("test", 3_589, 1),
        ]


def test_pixels_of_a_changed_file_are_not_read(tmp_path: Path) -> None:
    write_files(tmp_path, {"fer2013.csv": pixel_csv()})
    source = open_kind("ferplus", tmp_path, label_source="fer2013.csv")
    write_files(tmp_path, {"fer2013.csv": pixel_csv().replace(b"Training", b"Training ")})
    with pytest.raises(ValueError, match="changed while it was in use"):
        source.read(source.records()[3])


def test_a_pixel_above_white_is_an_unreadable_image(tmp_path: Path) -> None:
    line = f"3,{' '.join(['256'] * 2304)},Training\n"
    write_files(tmp_path, {"fer2013.csv": b"emotion,pixels,Usage\n" + line.encode()})
    source = open_source(entry("ferplus", ".", label_source="fer2013.csv", counts="any"), tmp_path)
    with pytest.raises(ValueError, match="not between 0 and 255"):
        source.read(source.records()[0])


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_new_labels_for_an_export(tmp_path: Path, form: str) -> None:
    files = {"data/fer2013new.csv" if form == "zip" else "fer2013new.csv": new_labels()}
    for part, rows in ROWS.items():
        files |= {f"{'data/' if form == 'zip' else ''}{n}": d for n, d in ferplus_files(part, rows).items()}
    # The authors' label.csv lists fewer images than their table; an export by it lacks those.
    files = {n: d for n, d in files.items() if not n.endswith("fer0000002.png")}
    path = write_files(tmp_path / "d", files) if form == "folder" else write_zip(tmp_path / "d.zip", files)
    source = open_kind("ferplus", path, label_source="fer2013new.csv")
    assert list(source.records()) == [r for r in kept(*ROWS) if not r.path.endswith("fer0000002.png")]
    assert source.dropped["not_exported"] == 1
    assert source.read(source.records()[1]) == png(1)


def test_part_folders_without_images_leave_the_pixels_to_the_csv(tmp_path: Path) -> None:
    files = {f"{part}/label.csv": ferplus_files(part, rows)[f"{part}/label.csv"] for part, rows in ROWS.items()}
    write_files(tmp_path, files | {"fer2013.csv": pixel_csv(), "fer2013new.csv": new_labels()})
    source = open_kind("ferplus", tmp_path, label_source="fer2013new.csv")
    assert pixels_of(source.read(source.records()[0])) == fer2013_rows()[0][2]
    with pytest.raises(SsferError, match=r"label.csv lists 8 images, 7 of them are missing"):
        open_kind("ferplus", tmp_path)


@pytest.mark.parametrize(
    ("files", "label_source", "message"),
    [
        ({}, "fer2013.csv", "fer2013.csv or icml_face_data.csv, found none; unpack or copy it there"),
        ({"a/fer2013.csv": b"", "icml_face_data.csv": b""}, "fer2013.csv", "found a/fer2013.csv, icml.*keep one"),
        ({}, "fer2013new.csv", "expected one fer2013new.csv .* found none"),
        ({"fer2013new.csv": new_labels()}, "fer2013new.csv", "expected the pixels of FER2013 in .* found none"),
        (
            {"fer2013new.csv": new_labels(), "fer2013.csv": pixel_csv().rsplit(b"\n", 2)[0]},
            "fer2013new.csv",
            "same images in the same order .* found 10 and 9 rows",
        ),
        ({"fer2013new.csv": b"Usage,neutral\n"}, "fer2013new.csv", "found no 'Image name' among Usage, neutral"),
        (
            {"fer2013new.csv": new_labels().replace(b"PublicTest", b"Public")},
            "fer2013new.csv",
            "unknown usage .*line 10.* 'Public'; did you mean 'PublicTest'",
        ),
        ({"fer2013new.csv": new_labels() + b"Training,x,1\r\n"}, "fer2013new.csv", "expected 12 columns, found 3"),
        ({"fer2013.csv": b"emotion,pixels\n"}, "fer2013.csv", "found no 'Usage' among emotion, pixels"),
        ({"fer2013.csv": b""}, "fer2013.csv", "found no 'emotion'"),
        (
            {"fer2013.csv": b"emotion,pixels,Usage\n7,0 0,Training\n"},
            "fer2013.csv",
            "line 2: expected an emotion from 0 to 6, found '7'",
        ),
        (
            {"fer2013.csv": b"emotion,pixels,Usage\n6,0 0,Training\n"},
            "fer2013.csv",
            "line 2: expected 2304 pixels, found 2",
        ),
        ({"fer2013.csv": b"emotion,pixels,Usage\n6,0 0\n"}, "fer2013.csv", "line 2: expected three columns, found 2"),
    ],
)
def test_csv_mistakes_get_one_sentence(
    tmp_path: Path, files: dict[str, bytes], label_source: str, message: str
) -> None:
    with pytest.raises(SsferError, match=message) as error:
        open_kind("ferplus", write_files(tmp_path, files), label_source=label_source)
    assert "\n" not in str(error.value)


def test_fer2013_without_an_export_says_which_label_source_to_set(tmp_path: Path) -> None:
    write_files(tmp_path, {"fer2013.csv": pixel_csv()})
    for path in (tmp_path, tmp_path / "fer2013.csv"):
        with pytest.raises(SsferError, match="set 'label_source: fer2013new.csv'"):
            open_kind("ferplus", path)
