"""AffectNet's automatically annotated photos: unlabeled, with face boxes where the table is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.datasets.base import RawRecord
from ssfer.datasets.registry import SOURCES, recognition_order
from tests.support.source_files import in_a_worker, open_kind, write_as, write_files

HEADER = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
ROOT = "Automatically_Annotated_Images/"
PHOTOS = {f"{ROOT}{name}": name.encode() for name in ("1/a.jpg", "1/b.JPG", "22/c.png", "22/notes.txt")}


def table(*names: str, box: str = "20,30,100,110") -> bytes:
    return "\n".join([HEADER, *(f"{name},{box},1.5;2.5,{i},0.1,0.2" for i, name in enumerate(names))]).encode()


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_listed_photos_get_the_box_and_no_label(tmp_path: Path, form: str) -> None:
    files = {**PHOTOS, "Automatically_Annotated_file_lists/automatically_annotated.csv": table("1/a.jpg", "22/c.png")}
    path = write_as(form, tmp_path, {f"AffectNet/{name}": data for name, data in files.items()})
    source = open_kind("affectnet_automatic", path, labeled=False)
    box = (20.0, 30.0, 120.0, 140.0)
    expected = [RawRecord(f"AffectNet/{ROOT}{name}", face=box) for name in ("1/a.jpg", "22/c.png")]
    assert source.records() == expected
    assert (source.dropped, len(source.notes)) == ({"not_listed": 1}, 1)
    assert in_a_worker(source).read(expected[1]) == b"22/c.png"
    assert source.variant == "AffectNet, automatically annotated, with face boxes"


def test_without_a_table_all_photos_are_taken(tmp_path: Path) -> None:
    source = open_kind("affectnet_automatic", write_files(tmp_path, PHOTOS), labeled=False)
    assert [(r.path, r.face) for r in source.records()] == [(name, None) for name in [*PHOTOS][:3]]
    assert source.variant.endswith("without face boxes")


def test_photos_that_the_table_has_in_excess_are_said(tmp_path: Path) -> None:
    files = {**PHOTOS, "automatically_annotated.csv": table("1/a.jpg", "3/gone.jpg", "4/gone.jpg")}
    source = open_kind("affectnet_automatic", write_files(tmp_path, files), labeled=False)
    assert source.notes[1] == "automatically_annotated.csv lists 2 photos that are not there"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a/1.jpg": b"x"}, "found 0 such folders and 0 tables among 1 files"),
        ({**PHOTOS, f"copy/{ROOT}1/a.jpg": b"x"}, "found 2 such folders and 0 tables"),
        ({**PHOTOS, "automatically_annotated.csv": table("1/a.jpg", box="1,2,-3,4")}, r"line 2: expected a face box"),
    ],
)
def test_another_layout_gets_a_sentence(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(SsferError, match=message):
        open_kind("affectnet_automatic", write_files(tmp_path, files), labeled=False)


def test_recognized_where_no_manual_part_is_there() -> None:
    def kind(names: list[str]) -> str:
        return next(kind for kind in recognition_order() if SOURCES[kind].recognize(sorted(names)))

    assert kind([*PHOTOS]) == "affectnet_automatic"
    assert kind([*PHOTOS, "Manually_Annotated_Images/1/x.jpg"]) == "affectnet"
