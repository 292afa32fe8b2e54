"""Tables with one row per photo, as spreadsheets and programs write them."""

from __future__ import annotations

import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from ssfer.core.errors import SsferError
from ssfer.datasets.base import FileMissing, RawRecord
from ssfer.datasets.registry import SOURCES
from ssfer.datasets.shared.table_photos import listing
from tests.support.source_files import entry, open_kind, write_as, write_files

PHOTOS = ["a/1.jpg", "a/2.png", "b 3.jpg"]


def write(root: Path, text: str | bytes, kind: str = "folder", photos: list[str] = PHOTOS) -> Path:
    """Write faces.csv and, in the folder or zip `photos`, files whose bytes are their names."""
    root.mkdir(exist_ok=True)
    (root / "faces.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    if kind == "zip":
        with zipfile.ZipFile(root / "photos.zip", "w") as archive:
            for name in photos:
                archive.writestr(name, name.encode())
    else:
        for name in photos:
            (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "photos" / name).write_bytes(name.encode())
    return root / "faces.csv"


FULL = "path,label,part,who,extra\na/2.png,Happiness,train,ann,1\n./a/1.jpg,fear,TEST,,2\nb 3.jpg,,none,bob,3\n"


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_rows_become_records_in_their_order(tmp_path: Path, kind: str, separator: str, encoding: str) -> None:
    path = write(tmp_path, FULL.replace(",", separator).replace("\n", "\r\n").encode(encoding), kind)
    images = "photos.zip" if kind == "zip" else "photos"
    source = open_kind("csv", path, images=images, usage_column="part", identity_column="who")
    assert source.records() == [
        RawRecord("a/2.png", label="happiness", usage="train", identity="ann"),
        RawRecord("a/1.jpg", label="fear", usage="test", identity=None),
        RawRecord("b 3.jpg", label=None, usage="none", identity="bob"),
    ]
    assert (source.counts(), source.dropped, source.notes) == ([], {"not_in_table": 0}, ["1 of 3 rows have no label"])
    assert source.variant == "table with columns path, label, part, who"
    assert [source.read(r) for r in source.records()] == [b"a/2.png", b"a/1.jpg", b"b 3.jpg"]


def test_photos_beside_the_table_and_rows_without_usage(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\nphotos/a/1.jpg,anger\nphotos/a/2.png,\n")
    source = open_kind("csv", path)
    assert [(r.path, r.label, r.usage) for r in source.records()] == [
        ("photos/a/1.jpg", "anger", "train"),
        ("photos/a/2.png", None, "none"),
    ]
    assert source.dropped["not_in_table"] == 1
    unlabeled = open_kind("csv", path, label_column=None)
    assert [(r.label, r.usage) for r in unlabeled.records()] == [(None, "none")] * 2
    assert unlabeled.notes == []


def test_words_for_no_label_are_none_unless_the_labels_name_them(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\nphotos/a/1.jpg,N/A\nphotos/a/2.png,Unknown\nphotos/b 3.jpg,\n")
    source = open_kind("csv", path)
    assert [r.label for r in source.records()] == [None] * 3
    assert source.notes == ["3 of 3 rows have no label; 'N/A', 'Unknown' means none, or is a class if 'labels' says so"]
    source = open_kind("csv", path, labels={"Unknown": "unknown"})
    assert [r.label for r in source.records()] == [None, "unknown", None]


@pytest.mark.parametrize(("file", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_of_file_names_may_be_written_in_two_ways(tmp_path: Path, file: str, written: str) -> None:
    """Folders from macOS have them apart from their letters, and look the same."""
    stored, row = (unicodedata.normalize(form, "Mädchen é.jpg") for form in (file, written))  # type: ignore[arg-type]
    files = {f"photos/{stored}": b"1", "faces.csv": f"path,label\n{row},fear\n".encode()}
    source = open_kind("csv", write_files(tmp_path, files) / "faces.csv", images="photos")
    (record,) = source.records()
    assert (record.path, source.read(record)) == (stored, b"1")
    rows = [(2, {"path": row, "label": "fear"})]
    assert listing(["path", "label"], rows, [f"photos/{stored}"]) is not None


def test_own_spellings_are_mapped_exactly(tmp_path: Path) -> None:
    path = write(tmp_path, 'file;emotion\na/1.jpg;" 3"\na/2.png;Froh, sehr\nb 3.jpg;anger\n')
    labels = {"3": "neutral", "Froh, sehr": "happiness", "anger": "disgust"}
    source = open_kind("csv", path, images="photos", path_column="file", label_column="emotion", labels=labels)
    assert [r.label for r in source.records()] == ["neutral", "happiness", "disgust"]


def test_usual_words_and_own_classes_are_labels(tmp_path: Path) -> None:
    text = "path,label,part\na/1.jpg,Angry,Training\na/2.png,Smiling,PrivateTest\nb 3.jpg,other,PublicTest\n"
    options = {"images": "photos", "usage_column": "part", "labels": {"other": None}}
    source = open_kind("csv", write(tmp_path, text), **options)
    assert [(r.label, r.usage) for r in source.records()] == [("anger", "train"), ("smiling", "test")]
    assert source.dropped["left_out_by_labels"] == 1


def test_age_groups_and_genders_are_labels_too(tmp_path: Path) -> None:
    source = open_kind("csv", write(tmp_path, "path,label\na/1.jpg,25-32\na/2.png,Female\n"), images="photos")
    assert [r.label for r in source.records()] == ["25-32", "female"]


def test_quoted_fields_hold_separators_quotes_and_line_breaks(tmp_path: Path) -> None:
    text = 'path,label,note\n"a,b ""c"".jpg",fear,"two\nlines"\n\na/1.jpg,anger,\n'
    source = open_kind("csv", write(tmp_path, text, photos=['a,b "c".jpg', "a/1.jpg"]), images="photos")
    assert [r.path for r in source.records()] == ['a,b "c".jpg', "a/1.jpg"]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (
            "file,label\n",
            {},
            r"one column 'path' in .*faces\.csv, found 0 among the columns file, label; name it",
        ),
        ("path,label\n", {"usage_column": "split"}, "expected one column 'split' .* path, label"),
        ("path,label\n", {"identity_column": "who"}, "expected one column 'who'"),
        ("path,emotion\n", {}, "expected one column 'label' .* path, emotion"),
        ("path,path,label\n", {}, "expected one column 'path' .* found 2 among"),
        ("", {}, r"found 0 among the columns \(none\)"),
        ("path,label\n", {}, "has no row below its header, expected one per photo"),
        ("path,label\na/1.jpg\n", {}, "line 2: expected 2 columns as in the header, found 1"),
        ("path,label\na/1.jpg,fear,x\n", {}, "line 2: expected 2 columns as in the header, found 3"),
        (
            "path,label\na/1.jpg,fear\n\na/9.jpg,fear\n",
            {},
            r"lists 2 images, 1 of them are missing, .* 'a/9\.jpg'; paths are relative to .*photos \('images'\)",
        ),
        (
            "path,label\na/1.jpg,fear\n./a//1.jpg,fear\n",
            {},
            r"expected 'a/1\.jpg' once, .* in lines 2 and 3; remove one of the rows, .*box_col",
        ),
        (
            "path,label\n../faces.csv,fear\n",
            {},
            r"line 2: expected .* inside 'photos', found '\.\./faces",
        ),
        ("path,label\na/../../x.jpg,fear\n", {}, r"inside 'photos', found 'a/\.\./\.\./x\.jpg'"),
        ("path,label\n/etc/passwd,fear\n", {}, "inside 'photos', found '/etc/passwd'"),
        ("path,label\n,fear\n", {}, "line 2: expected the path of a photo"),
        (
            "path,label\na/1.jpg,happy\na/2.png,4\nb 3.jpg,4\n",
            {},
            r"column 'label' of .* has numbers for labels: '4' \(2 rows\); .* 'labels' .*RAF-DB: 1 surprise",
        ),
        (
            "path,label,part\na/1.jpg,fear,trainig\n",
            {"usage_column": "part"},
            r"unknown usage in column 'part' \(.*line 2\) 'trainig'; did you mean 'train'\? \(known: none, test,",
        ),
        ("path,label,part\na/1.jpg,fear,\n", {"usage_column": "part"}, "unknown usage in column 'part'"),
        (b"path,label\n\xff\xfe,fear\n", {}, "is not UTF-8 text; save the table as"),
        ("a/1.jpg,fear\na/2.png,fear\n", {}, r"begins with the row of 'a/1\.jpg', expected the names of its columns"),
        ("path,label\n1,fear\n", {"images": "photos/a"}, r"missing, .* '1'; write the ending of the files, \.jpg, in"),
        ("path,label\nC:\\\\me\\\\1.jpg,fear\n", {}, r"inside 'photos', found 'C:.*1\.jpg'; path_prefix in the"),
        ('path,label\n"a/1.jpg"x,fear\n', {}, "line 2: expected a row of a csv file, found"),
        ('path,label\n"' + "x" * 200_000 + '",fear\n', {}, "line 2: expected a row of a csv file, found field larger"),
        ("path,label\na/1.jpg,fear\n", {"images": "../photos"}, r"expected 'images' to be .*, found '\.\./photos'"),
        ("path,label\na/1.jpg,fear\n", {"images": "/tmp"}, "expected 'images' to be .*, found '/tmp'"),
        ("path,label\na/1.jpg,fear\n", {"images": "absent"}, "expected a folder or a zip file at .*absent"),
    ],
)
def test_mistakes_get_one_sentence(tmp_path: Path, text: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SsferError, match=message) as error:
        open_kind("csv", write(tmp_path, text), **{"images": "photos", **settings})
    assert "\n" not in str(error.value)


def test_a_missing_table_a_folder_and_a_huge_table_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SsferError, match=r"expected a csv file at .*no\.csv, found none"):
        open_kind("csv", tmp_path / "no.csv")
    with pytest.raises(SsferError, match="is no table; name the tables in it in the source's 'tables', or give one"):
        open_kind("csv", tmp_path)
    path = write(tmp_path, FULL)
    monkeypatch.setattr("ssfer.datasets.shared.table_rows.MAX_FILE_BYTES", 50)
    with pytest.raises(SsferError, match="has 99 bytes, at most 50 are read"):
        open_kind("csv", path, images="photos")


def test_photos_that_are_missing_keep_their_rows(tmp_path: Path) -> None:
    source = open_kind(
        "csv", write(tmp_path, "path,label\na/1.jpg,fear\nb 3.jpg,fear\na/9.jpg,anger\n"), images="photos"
    )
    assert ([r.path for r in source.records()], source.missing) == (["a/1.jpg", "b 3.jpg", "a/9.jpg"], ["a/9.jpg"])
    with pytest.raises(FileMissing):
        source.read(source.records()[2])


BOXES = {"images": "photos", "align": "similarity", "box_columns": ["x", "y", "w", "h"]}


def test_a_photo_may_have_a_row_per_face(tmp_path: Path) -> None:
    rows = ["a/1.jpg,fear,10,20,30,40", "a/1.jpg,anger,50.4,20,30,40", "a/2.png,anger,1,2,3,4", "b 3.jpg,fear,,,,"]
    text = "\n".join(["path,label,x,y,w,h", *rows])
    source = open_kind("csv", write(tmp_path, text), **BOXES)
    assert source.records() == [
        RawRecord("a/1.jpg#xywh=10,20,30,40", label="fear", usage="train", face=(10, 20, 40, 60)),
        RawRecord("a/1.jpg#xywh=50,20,30,40", label="anger", usage="train", face=(50.4, 20, 80.4, 60)),
        RawRecord("a/2.png", label="anger", usage="train", face=(1, 2, 4, 6)),
        RawRecord("b 3.jpg", label="fear", usage="train"),
    ]
    assert [source.read(r) for r in source.records()[:2]] == [b"a/1.jpg"] * 2
    assert source.dropped["not_in_table"] == 0


@pytest.mark.parametrize("cell", ["[10, 20, 30, 40]", "10 20 30 40", "(10.0;20;30;40.0)"])
def test_one_column_may_have_the_whole_box(tmp_path: Path, cell: str) -> None:
    path = write(tmp_path, f'path,label,bbox\na/1.jpg,fear,"{cell}"\n')
    source = open_kind("csv", path, **BOXES | {"box_columns": ["bbox"], "box_format": "xyxy"})
    assert source.records()[0].face == (10, 20, 30, 40)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a/1.jpg,fear,1,2,x,4", r"line 2: expected the box .* \(left, top, width, height\), found '1, 2, x, 4'"),
        ("a/1.jpg,fear,1,2,0,4", "line 2: expected the box of a face"),
        ("a/1.jpg,fear,1,2,,4", "line 2: expected the box of a face"),
        ("a/1.jpg,fear,1,2,nan,4", "line 2: expected the box of a face"),
        ("a/1.jpg,fear,1,2,1e9,4", "line 2: expected the box of a face"),
        ("a/1.jpg,fear,0.1,0.2,0.5,0.6", "are at most 0.6 wide and high, so they are shares"),
        ("a/1.jpg,fear,1,2,3,4\na/1.jpg,anger,1,2,3,4", r"expected 'a/1\.jpg#xywh=1,2,3,4' once, .*lines 2 and 3"),
        (
            "a/1.jpg,fear,1,2,3,4\na/1.jpg,anger,,,,",
            r"photo 'a/1\.jpg' has several rows, and that in line 3 has no box",
        ),
    ],
)
def test_mistakes_in_boxes_get_one_sentence(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(SsferError, match=message):
        open_kind("csv", write(tmp_path, f"path,label,x,y,w,h\n{rows}\n"), **BOXES)


@pytest.mark.parametrize("change", [{"box_columns": ["x", "y"]}, {"align": "resize"}])
def test_settings_of_boxes_fit_each_other(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="box_columns"):
        entry("csv", **BOXES | change)


@pytest.mark.parametrize(
    ("header", "columns", "form"),
    [
        ("x,y,w,h", "x,y,w,h", "xywh"),
        ("Face_X,Face_Y,Face_Width,Face_Height", "Face_X,Face_Y,Face_Width,Face_Height", "xywh"),
        ("top,left,bottom,right", "left,top,right,bottom", "xyxy"),
        ("x1,y1,x2,y2", "x1,y1,x2,y2", "xyxy"),
        ("bbox.xmin,bbox.ymin,bbox.xmax,bbox.ymax", "bbox.xmin,bbox.ymin,bbox.xmax,bbox.ymax", "xyxy"),
        ("face_box_top,face_box_left,face_box_right,face_box_bottom",
         "face_box_left,face_box_top,face_box_right,face_box_bottom", "xyxy"),
    ],
)  # fmt: skip
def test_columns_of_boxes_are_found_by_their_names(tmp_path: Path, header: str, columns: str, form: str) -> None:
    path = write(tmp_path, f"image,emotion,{header}\na/1.jpg,fear,1,2,30,40\n")
    table = SOURCES["csv"].suggest(path, entry("csv", images="photos"))
    assert (",".join(table.box_columns), table.box_format, table.align) == (columns, form, "similarity")
    assert open_kind("csv", path, images="photos", path_column="image", label_column="emotion").notes == [
        f"the boxes of faces in columns {columns.replace(',', ', ')} are not used; name them in the source's "
        "box_columns, and say in box_format whether they are xywh or xyxy"
    ]


@pytest.mark.parametrize(("box", "form"), [("40 40 20 20", "xywh"), ("20 20 40 40", "xyxy"), ("5 5 20 20", None)])
def test_the_photo_tells_what_one_column_means_if_it_can(tmp_path: Path, box: str, form: str | None) -> None:
    path = write(tmp_path, f"path,label,bbox\nb 3.png,fear,{box}\n")
    Image.new("RGB", (60 if form == "xywh" else 48, 60 if form == "xywh" else 48)).save(tmp_path / "photos/b 3.png")
    table = SOURCES["csv"].suggest(path, entry("csv", images="photos"))
    assert table.box_format == form if form else table.box_columns is None


def test_words_that_become_one_class_are_said_and_control_characters_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\na/1.jpg,happy\na/2.png,happiness\nb 3.jpg,Happy\n")
    assert open_kind("csv", path, images="photos").notes == [
        "labels that are one class: 'happiness' and 'happy' become happiness"
    ]
    path = write(tmp_path, "path,label\na/1.jpg,fe\x1bar\n")
    with pytest.raises(SsferError, match=r"a label with control characters, 'fe\\x1bar'; correct the table"):
        open_kind("csv", path, images="photos")


@pytest.mark.parametrize(
    ("words", "usage", "note"),
    [
        ("train test", "split", ""),
        ("trian test", "split", ""),
        ("1 2", None, "column split is not used: its words (1, 2)"),
    ],
)
def test_a_column_of_parts_is_used_or_spoken_of(tmp_path: Path, words: str, usage: str | None, note: str) -> None:
    """One misspelled word does not make training photos of the test part; it is refused when the table is opened."""
    one, two = words.split()
    path = write(tmp_path, f"path,label,split\na/1.jpg,fear,{one}\na/2.png,anger,{two}\n")
    assert SOURCES["csv"].suggest(path, entry("csv", images="photos")).usage_column == usage
    said = open_kind("csv", path, images="photos").notes[0]
    assert said.startswith(note or "column split is not used: its words (t")


def test_json_lines_are_a_table(tmp_path: Path) -> None:
    write(tmp_path, "")
    rows = [
        '{"file_name": "a/1.jpg", "label": "fear", "bbox": [1, 2, 3, 4]}', "",
        '{"label": null, "file_name": "a/2.png", "age": 3}',
    ]  # fmt: skip
    (tmp_path / "faces.jsonl").write_text("\n".join(rows))
    form = {"images": "photos", "path_column": "file_name", "align": "similarity"}
    source = open_kind("csv", tmp_path / "faces.jsonl", **form, box_columns=["bbox"])
    assert source.records() == [
        RawRecord("a/1.jpg", label="fear", usage="train", face=(1, 2, 4, 6)),
        RawRecord("a/2.png", usage="none"),
    ]
    for line in ("[1]", "{", "x" * 1000):
        (tmp_path / "faces.jsonl").write_text(f"{rows[0]}\n{line}\n")
        with pytest.raises(SsferError, match=r"faces\.jsonl, line 2: expected one JSON object a line, found"):
            open_kind("csv", tmp_path / "faces.jsonl", **form)
    (tmp_path / "faces.jsonl").write_text(f'{rows[0]}\n{{"file_name": "\\ud800.jpg", "label": "sad"}}\n')
    with pytest.raises(SsferError, match=r"faces\.jsonl, line 2: expected text, found half of a character"):
        open_kind("csv", tmp_path / "faces.jsonl", **form)


@pytest.mark.parametrize(
    ("written", "prefix"),
    [("a\\1.jpg", ""), ("/home/me/a/1.jpg", "/home/me/"), ("C:\\me\\a\\1.jpg", "C:/me/"), ("x/./a//1.jpg", "x/")],
)
def test_paths_of_other_machines_are_read(tmp_path: Path, written: str, prefix: str) -> None:
    path = write(tmp_path, f"path,label\n{written},fear\n")
    found = SOURCES["csv"].suggest(path, entry("csv"))
    assert (found.images, found.path_prefix) == ("photos", prefix)
    source = open_kind("csv", path, images="photos", path_prefix=prefix)
    assert [(r.path, source.read(r)) for r in source.records()] == [("a/1.jpg", b"a/1.jpg")]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_folder_or_zip_may_hold_several_tables(tmp_path: Path, kind: str) -> None:
    files = {
        "train/1.jpg": b"1", "train/2.jpg": b"2", "val/1.jpg": b"3",
        "train.csv": b"file,label\n1.jpg,fear\n2.jpg,\n", "val.csv": b"file,label\n1.jpg,anger\n",
    }  # fmt: skip
    path = write_as(kind, tmp_path, files)
    tables = [
        {"file": f"{part}.csv", "usage": usage, "images": part}
        for part, usage in (("train", "train"), ("val", "valid"))
    ]
    found = SOURCES["csv"].suggest(path, entry("csv"))
    assert [t.model_dump() for t in found.tables] == tables
    source = open_kind("csv", path, **found.model_dump(exclude={"name", "kind", "path", "labeled", "align"}))
    assert [(r.path, r.label, r.usage, source.read(r)) for r in source.records()] == [
        ("train/1.jpg", "fear", "train", b"1"),
        ("train/2.jpg", None, "train", b"2"),
        ("val/1.jpg", "anger", "test", b"3"),
    ]
    assert source.notes[0].startswith("'valid' is taken as the test part")
    for tables, message in (
        ([{"file": "no.csv"}], r"expected a table at .*no\.csv, found none"),
        ([{"file": "train.csv", "images": "train"}] * 2, r"expected 'train/1\.jpg' once, found it in lines 2 and 2"),
    ):
        with pytest.raises(SsferError, match=message):
            open_kind("csv", path, path_column="file", tables=tables)


def test_a_csv_file_itself_is_recognized() -> None:
    assert SOURCES["csv"].recognize(["faces.csv"])
    assert SOURCES["csv"].recognize(["FACES.TSV"])
    assert not SOURCES["csv"].recognize(["x/faces.csv"])
    assert not SOURCES["csv"].recognize(["a.jpg", "faces.csv"])
