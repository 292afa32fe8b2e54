"""What is no data set gets a sentence that says what it is and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.doctor.data_sets import identify
from tests.support.doctor_files import finding, look, png
from tests.support.source_files import write_files


@pytest.mark.parametrize(
    ("files", "given", "message"),
    [
        ({}, "", "is empty, expected photos in it"),
        ({"a.png": b""}, "a.png", "a.png is one photo, .*; give the folder it lies in"),
        ({"a.png": b"", "b.JPG": b""}, "", "lie side by side and no table says their labels; .*--kind identities"),
        (
            {"a.tar.gz": b"", "x.txt": b""},
            "",
            "has no photo, but the archive a.tar.gz; unpack that and give the folder",
        ),
        ({"a.tar.gz": b""}, "a.tar.gz", r"unpack it \(tar -xf a\.tar\.gz\) and give the folder"),
        ({"a.zip": b"PK"}, "a.zip", "is not a readable zip file"),
        ({"t.xlsx": b""}, "t.xlsx", r"is no table in text; save it as 'CSV UTF-8'"),
        ({"x/notes.txt": b""}, "", "has 1 files and no photo among them"),
        ({"x.dat": b""}, "x.dat", "is not recognized as any data set; .*--kind"),
    ],
)
def test_sentences(tmp_path: Path, files: dict[str, bytes], given: str, message: str) -> None:
    with pytest.raises(SsferError, match=message):
        identify([write_files(tmp_path, files) / given])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("labels.txt", b"img/1.png happy\n", "labels.txt seems to list photos and is not read as a table; save it as"),
        ("labels.json", b'{"img/1.png": "happy"}', "labels.json seems to list photos"),
        ("labels.xlsx", b"PK", "labels.xlsx seems to list photos"),
        ("labels.csv", b"img/1.png,happy\n", "begins with the row of 'img/1.png'"),
        ("labels.csv", b"path,label\nimg/1.PNG,happy\n", "write paths such as img/1.png"),
        ("readme.txt", b"faces of rendered people", ""),
    ],
)
def test_tables_that_are_not_read_are_warned_of(tmp_path: Path, name: str, text: bytes, said: str) -> None:
    """Else labeled photos would be taken for photos of people without a word."""
    values = look(write_files(tmp_path, {"img/1.png": png(1), name: text}))
    assert values["exit_status"] == 1
    assert said in finding(values, "table" if said else "not_images")["text"]
