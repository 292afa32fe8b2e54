"""Tables among photos: which columns say what, and where the photos lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.datasets.shared.archives import open_archive
from ssfer.datasets.shared.table_files import chosen, find_tables
from ssfer.datasets.shared.table_photos import known_columns, listing
from ssfer.datasets.shared.table_rows import parse_rows
from tests.support.source_files import write_files


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("path,label,usage\na.jpg,smile,train\n", "path label usage"),
        ("Image;Emotion;Split\na.jpg;smile;7\n", "Image Emotion "),  # no words for parts
        ("Bild,Gef\u00fchl,Teil\na.jpg,happy,train\nb.jpg,sad,test\n", "Bild Gef\u00fchl Teil"),
        ("Bild,Gef\u00fchl\na.jpg,froh\n", "Bild  "),
        ("file,label,emotion\na.jpg,4,happy\n", "file emotion "),  # a number and its word
        ("path,label,emotion\na.jpg,smile,joy\n", "path label "),
        ("file,image,label\nx,a.jpg,smile\n", "image label "),
        ("number,age\n1,20\n", "  "),
    ],
)
def test_columns_are_known_by_their_names_or_their_cells(table: str, columns: str) -> None:
    found = known_columns(*parse_rows(table.encode(), "t.csv"))
    assert " ".join(found.get(f"{key}_column", "") for key in ("path", "label", "usage")) == columns


@pytest.mark.parametrize(
    ("paths", "photos", "images", "prefix"),
    [
        (["a.jpg", "b.jpg"], ["img/a.jpg", "img/b.jpg"], "img", ""),
        (["a.jpg", "b.jpg"], ["a.jpg", "x/a.jpg", "b.jpg"], ".", ""),
        (["/d/img/a.jpg", "/d/img/b.jpg"], ["img/a.jpg", "img/b.jpg"], ".", "/d/"),
        (["old/a.jpg", "old/b.jpg"], ["new/a.jpg", "new/b.jpg"], "new", "old/"),
        (["img\\a.jpg", "b.jpg"], ["img/a.jpg", "b.jpg"], ".", ""),
    ],
)
def test_place_of_the_listed_photos_is_found(paths: list[str], photos: list[str], images: str, prefix: str) -> None:
    found = listing(["path"], [(i, {"path": path}) for i, path in enumerate(paths, 2)], photos)
    assert found is not None
    assert (found.images, found.prefix, len(found.photos)) == (images, prefix, 2)
    assert listing(["path"], [(2, {"path": "c.jpg"})], photos) is None


ALL = "path,label,usage\na.jpg,fear,train\nb.jpg,anger,test\n"


@pytest.mark.parametrize(
    ("tables", "taken"),
    [
        ({"t.csv": ALL, "a.csv": "path,label\na.jpg,fear\n", "notes.csv": "x,y\n1,2\n"}, [("t.csv", None)]),
        (
            {"train_labels.csv": "path,label\na.jpg,fear\n", "Test.tsv": "path\tlabel\nb.jpg\tfear\n"},
            [("Test.tsv", "test"), ("train_labels.csv", "train")],
        ),
        ({"u.csv": "path,label\na.jpg,\n", "l.csv": "path,label\nb.jpg,fear\n"}, [("l.csv", None), ("u.csv", None)]),
        ({"train.csv": "path,label\na.jpg,fear\nb.jpg,anger\n"}, [("train.csv", None)]),
    ],
)
def test_tables_that_belong_together_are_chosen(
    tmp_path: Path, tables: dict[str, str], taken: list[tuple[str, str | None]]
) -> None:
    files = {name: text.encode() for name, text in tables.items()} | {"a.jpg": b"", "b.jpg": b""}
    found, _ = find_tables(tmp_path, open_archive(write_files(tmp_path, files)))
    assert [(table.file, table.usage) for table in chosen(found)] == taken


def test_table_whose_paths_are_none_here_is_explained(tmp_path: Path) -> None:
    files = {"t.csv": b"id,label\n001,fear\n", "img/001.png": b""}
    found, (problem,) = find_tables(tmp_path, open_archive(write_files(tmp_path, files)))
    assert not found
    assert problem.endswith("its column id says '001', which is no photo here; write paths such as img/001.png")


def test_two_tables_of_the_same_photos_are_no_guess(tmp_path: Path) -> None:
    files = {"ann.csv": b"path,label\na.jpg,fear\n", "bob.csv": b"path,label\na.jpg,anger\n", "a.jpg": b""}
    found, problems = find_tables(
        tmp_path, open_archive(write_files(tmp_path, files | {"cut.csv": b"path,label\nx\n"}))
    )
    assert "expected 2 columns" in problems[0]
    with pytest.raises(
        SsferError, match=r"2 tables list the same photos: ann\.csv \(1 rows\), bob\.csv .*; give the one"
    ):
        chosen(found)
