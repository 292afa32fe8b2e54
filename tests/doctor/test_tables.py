"""Folders with tables among their photos: what they are taken for, and what is said about tables beside folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.doctor.entry import use_of_path
from tests.support.doctor_files import codes, finding, look, page, png
from tests.support.source_files import write_as, write_files

HEAD = "path;label;usage\n"
LEAK = f"{HEAD}img/1.png;angry;train\nimg/2.png;fear;train\nimg/3.png;anger;test\nimg/4.png;fear;test\n"
PHOTOS = {f"img/{i}.png": png(i) for i in (1, 2, 4)} | {"img/3.png": png(1)}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("table", ["table.csv", "labels/all.csv"])
def test_usage_column_of_a_table_in_the_given_folder_finds_leaks(tmp_path: Path, kind: str, table: str) -> None:
    values = look(write_as(kind, tmp_path, PHOTOS | {table: LEAK.encode("utf-8-sig")}))
    assert codes(values)[0] == ("error", "test_in_training") and values["exit_status"] == 2
    (source,) = values["data_sets"][0]["use"]["data"]["sources"]
    assert source["usage_column"] == "usage"
    assert source.get("tables", [{"file": source["path"]}])[0]["file"] == table
    assert f"usage_column: {source['usage_column']}" in page(values)
    assert "words that are understood: 'angry' is anger" not in page(values), "both words occur"
    assert "'anger' and 'angry' become anger" in page(values)


def test_columns_that_say_parts_beside_class_folders_are_said(tmp_path: Path) -> None:
    """Their test photos are among the training photos otherwise, and nobody knows."""
    files = {f"{c}/{i}.png": png(i) for i, c in enumerate(("angry", "angry", "fear", "fear"))}
    table = "path,label,split\n" + "".join(
        f"{name},{name[:-6]},{'train' if i % 2 else 'test'}\n" for i, name in enumerate(files)
    )
    values = look(write_files(tmp_path / "set", files | {"labels.csv": table.encode()}))
    assert "its column split says parts and is not used: to use it, give it instead" in finding(values, "table")["text"]
    flags = table.replace("train", "0").replace("test", "1").replace("split", "is_test")
    use = use_of_path(write_files(tmp_path / "flags", files | {"labels.csv": flags.encode()}) / "labels.csv")
    assert any(
        remark.startswith("column is_test is not used; to use it, write the words train") for remark in use.remarks
    )


def test_boxes_and_rows_without_label_are_read(tmp_path: Path) -> None:
    rows = "1.png,happy,0,0,20,20\n1.png,sad,30,30,20,20\n2.png,,,,,\n"
    table = {"faces.csv": f"filename,emotion,x,y,w,h\n{rows}".encode()}
    use = use_of_path(write_files(tmp_path / "set", table | {"in/1.png": png(1), "in/2.png": png(2)}))
    (source,) = use.settings["data"]["sources"]
    assert source["box_columns"] == ["x", "y", "w", "h"]
    assert (source["path"], source["images"], source["path_column"]) == ("faces.csv", "in", "filename")
    assert "1 of 3 rows have no label" in use.remarks
    assert "words that are understood: 'happy' is happiness, 'sad' is sadness" in use.remarks


def test_of_several_tables_the_fullest_is_taken_and_the_others_are_said(tmp_path: Path) -> None:
    some = f"{HEAD}img/2.png;fear;train\n".encode()
    values = look(write_files(tmp_path / "set", PHOTOS | {"table.csv": LEAK.encode(), "some.csv": some}))
    assert values["data_sets"][0]["path"].endswith("table.csv")
    assert finding(values, "table")["text"].endswith(
        "not used: some.csv (1 rows), which also list photos of this folder"
    )
    values = look(write_files(tmp_path / "set", {"b.csv": LEAK.encode()}))
    assert codes(values) == [("error", "not_opened")]
    assert "give the one that is meant" in page(values)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (f"{HEAD}img/1.png;fear;train\nimg/1.png;anger;train\n", "expected 'img/1.png' once"),
        (HEAD, "no row below its header"),
    ],
)
def test_a_faulty_table_that_was_named_is_not_replaced_by_another(tmp_path: Path, table: str, said: str) -> None:
    folder = write_files(tmp_path / "set", PHOTOS | {"labels.csv": LEAK.encode(), "mine.csv": table.encode()})
    with pytest.raises(SsferError, match=said):
        use_of_path(folder / "mine.csv")
    values = look(folder / "mine.csv")
    assert codes(values) == [("error", "not_opened")] and said in finding(values, "not_opened")["text"]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("fear", "says the same"),
        ("disgust", "says another label for 1 of 2 photos; to take the table's, give"),
        ("4", ""),
    ],
)
def test_table_beside_class_folders_is_explained(tmp_path: Path, label: str, said: str) -> None:
    files = {"fear/1.png": png(1), "happy/2.png": png(2)}
    table = f",pth,label\n0,fear/1.png,{label}\n1,happy/2.png,happy\n".encode()
    values = look(write_files(tmp_path, files | {"labels.csv": table}))
    (data_set,) = values["data_sets"]
    assert (data_set["kind"], values["exit_status"]) == ("class_folders", 0)
    text = finding(values, "table")["text"]
    assert "labels.csv lists 2 of the 2 photos in its column pth and is not used, because the folders say" in text
    assert said in text
    assert any("labels.csv" in remark for remark in use_of_path(tmp_path).remarks)


def test_folders_with_a_table_each_are_data_sets_of_their_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_files(tmp_path / name, PHOTOS | {"t.csv": LEAK.encode()})
    assert [d["path"] for d in look(tmp_path)["data_sets"]] == [str(tmp_path / n / "t.csv") for n in ("one", "two")]
    parts = {f"{part}/{i}.png": png(i) for i, part in enumerate(("train", "test"))}
    tables = {f"{part}/metadata.jsonl": f'{{"file_name": "{i}.png", "label": "x{i}"}}'.encode()
              for i, part in enumerate(("train", "test"))}  # fmt: skip
    (data_set,) = look(write_files(tmp_path / "hub", parts | tables))["data_sets"]
    assert data_set["labels"] == {"train": {"x0": 1}, "test": {"x1": 1}}


def test_photos_in_a_zip_beside_the_table(tmp_path: Path) -> None:
    write_as("zip", tmp_path, PHOTOS, "photos")
    (tmp_path / "t.csv").write_text(LEAK)
    (data_set,) = look(tmp_path)["data_sets"]
    assert data_set["use"]["data"]["sources"][0]["images"] == "photos.zip"
