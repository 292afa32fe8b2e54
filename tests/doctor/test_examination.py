"""`ssfer doctor`: what it takes paths for, what it counts, and how it says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssfer.core.errors import SsferError
from ssfer.datasets.registry import SOURCES
from ssfer.doctor import scan
from ssfer.doctor.data_sets import identify, kind_of, params_for
from ssfer.doctor.examination import Settings
from tests.support.doctor_files import class_folders, codes, encoded, finding, look, near_copy, page, photo, png
from tests.support.source_files import write_files, write_zip


def ferplus(part: str, *seeds: int) -> dict[str, bytes]:
    """A part of FERPlus: 48 px photos with the votes of their class, the seed modulo 8."""
    files = {f"{part}/fer{i:07d}.png": encoded(photo(i, 48).convert("L")) for i in seeds}
    votes = {i: ",".join("10" if k == i % 8 else "0" for k in range(10)) for i in seeds}
    table = "".join(f'fer{i:07d}.png,"(0, 0, 48, 48)",{votes[i]}\n' for i in seeds)
    return {**files, f"{part}/label.csv": table.encode()}


def test_every_kind_has_settings_that_open_it_whatever_its_counts() -> None:
    for kind in SOURCES:
        first = next(params_for(kind, Path("x")))
        assert (first.kind, first.counts) == (kind, "any")
    forms = [p.model_dump()["label_source"] for p in params_for("ferplus", Path("x"))]
    assert forms == ["label.csv", "fer2013new.csv", "fer2013.csv"]


def test_zips_that_are_parts_of_one_data_set_are_one_data_set(tmp_path: Path) -> None:
    train = write_zip(tmp_path / "FER2013Train.zip", ferplus("FER2013Train", *range(8)))
    valid = write_zip(tmp_path / "FER2013Valid.zip", ferplus("FER2013Valid", *range(8, 16)))
    values = look(train, valid)
    (data_set,) = values["data_sets"]
    assert (data_set["name"], data_set["kind"], data_set["images"]) == ("FERPlus", "ferplus", 16)
    assert data_set["path"] == f"{train} + {valid}"
    assert data_set["labels"]["train"] == data_set["labels"]["test"]
    assert data_set["labels"]["test"]["anger"] == 1
    assert [d["images"] for d in look(tmp_path)["data_sets"]] == [16]


def test_a_file_that_is_no_data_set_by_itself_is_found_with_its_siblings(tmp_path: Path) -> None:
    rows = [f"0,{' '.join(str(p) for p in np.asarray(photo(i, 48).convert('L')).ravel())},Training" for i in range(3)]
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n" + "\n".join(rows) + "\n")
    header = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
    votes = "".join(f"Training,fer000000{i}.png,0,0,0,0,10,0,0,0,0,0\n" for i in range(3))
    (tmp_path / "fer2013new.csv").write_text(header + votes)
    for given in ([tmp_path / "fer2013new.csv"], [tmp_path / "fer2013.csv", tmp_path / "fer2013new.csv"], [tmp_path]):
        (data_set,) = look(*given)["data_sets"]
        assert (data_set["name"], data_set["labels"]) == ("FERPlus", {"train": {"anger": 3}})


def test_rows_of_one_photo_are_looked_at_by_their_boxes(tmp_path: Path) -> None:
    """Two faces of a photo repeat nothing; a test photo of the same face is a copy of it."""
    both = Image.new("RGB", (200, 100))
    both.paste(photo(0, 100), (0, 0))
    both.paste(photo(1, 100), (100, 0))
    table = "path,label,usage,x1,y1,x2,y2\n1.png,fear,train,0,0,100,100\n1.png,anger,train,100,0,200,100\n"
    table += "2.png,anger,test,,,,\n3.png,fear,test,,,,\n"
    files = {"1.png": encoded(both), "2.png": encoded(photo(1, 100)), "3.png": encoded(photo(7, 100))}
    values = look(write_files(tmp_path, files | {"t.csv": table.encode()}) / "t.csv")
    assert [(c["usage"], c["in_usage"], c["same_pixels"]) for c in values["copies"]] == [("train", "test", 1)]
    (source,) = values["data_sets"][0]["use"]["data"]["sources"]
    assert (source["align"], source["box_columns"], source["box_format"]) == (
        "similarity", ["x1", "y1", "x2", "y2"], "xyxy"
    )  # fmt: skip


def test_a_folder_of_data_sets_is_taken_apart(tmp_path: Path) -> None:
    write_files(tmp_path / "labeled", class_folders())
    write_files(tmp_path / "more", {"train/anger/1.png": png(15)})
    write_zip(tmp_path / "people.zip", {"people/Ann/1.png": png(20), "people/Bo/1.png": png(21)})
    write_zip(tmp_path / "papers.zip", {"a.pdf": b"%PDF"})
    places, unknown = identify([tmp_path])
    assert [p.kind for p in places] == ["class_folders", "class_folders", "identities"]
    assert unknown == [tmp_path / "papers.zip"]
    values = look(tmp_path)
    found = [(d["name"], d["images"], d["people"]) for d in values["data_sets"]]
    assert found == [("labeled", 7, 0), ("more", 1, 0), ("people.zip", 2, 2)]
    assert values["not_recognized"] == [str(tmp_path / "papers.zip")]
    assert codes(values) == [("warning", "not_recognized"), ("info", "note")]  # folders Ann and Bo may be classes
    assert values["exit_status"] == 1


def test_zips_beside_a_data_set_are_not_forgotten(tmp_path: Path) -> None:
    write_zip(tmp_path / "FER2013Train.zip", ferplus("FER2013Train", *range(8)))
    write_zip(tmp_path / "people.zip", {"people/Ann/1.png": png(20)})
    assert sorted(p.kind for p in identify([tmp_path, tmp_path])[0]) == ["ferplus", "identities"], "each path once"


def test_kind_decides_where_recognition_fails(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match="found nothing there"):
        look(tmp_path / "absent")
    with pytest.raises(SsferError, match="unknown kind of data set 'rafbd'"):
        look(tmp_path, settings=Settings(kind="rafbd"))
    folder = write_files(tmp_path / "flat", {"1.png": png(1), "2.png": png(2)})
    assert kind_of(["1.png", "2.png"]) is None
    with pytest.raises(SsferError, match="lie side by side and no table says .*--kind identities"):
        look(folder)
    assert look(folder, settings=Settings(kind="identities", workers=1))["data_sets"][0]["images"] == 2


def test_a_data_set_that_cannot_be_opened_does_not_hide_the_others(tmp_path: Path) -> None:
    broken = write_files(tmp_path / "broken", {"FER2013Train/fer0000000.png": png(0)})
    values = look(broken, write_files(tmp_path / "good", class_folders()))
    assert codes(values) == [("error", "not_opened")]
    assert "label.csv" in values["not_opened"][0]["problem"]
    assert [d["name"] for d in values["data_sets"]] == ["good"]
    assert values["exit_status"] == 2


def test_clean_data_set_has_no_findings(tmp_path: Path) -> None:
    values = look(write_files(tmp_path / "d", class_folders()))
    assert (values["findings"], values["copies"], values["severity"], values["exit_status"]) == ([], [], None, 0)
    (data_set,) = values["data_sets"]
    assert data_set["labels"] == {"train": {"anger": 3, "fear": 2}, "test": {"anger": 1, "fear": 1}}
    assert data_set["files"] == {"status": {"ok": 7}, "width": [64, 64, 64], "height": [64, 64, 64]}


def test_counts_that_are_not_the_published_ones_are_an_error(tmp_path: Path) -> None:
    values = look(write_files(tmp_path, ferplus("FER2013Train", *range(8))))
    assert values["exit_status"] == 2
    assert finding(values, "counts_differ")["text"].startswith("FERPlus does not have the published number of images: ")
    (count,) = [c for c in values["data_sets"][0]["counts"] if (c["part"], c["name"]) == ("train", "images")]
    assert (count["found"], count["expected"] > 20_000) == (8, True)
    assert f"{count['found'] - count['expected']:+,}" in page(values)


def test_class_without_images_and_nothing_readable_are_errors(tmp_path: Path) -> None:
    files = {name: data for name, data in class_folders().items() if name != "test/fear/7.png"}
    values = look(write_files(tmp_path / "d", files))
    assert codes(values) == [("error", "class_without_images")]
    assert finding(values, "class_without_images")["text"] == "the test part of d has no image of: fear"
    values = look(write_files(tmp_path / "e", {"a/1.png": b"x", "b/1.png": b""}))
    assert codes(values) == [("error", "nothing_readable")]
    assert values["data_sets"][0]["files"]["width"] is None


def test_damaged_files_are_counted_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_PIXELS", 64 * 64)
    files = class_folders(
        train__anger__cut=png(8)[:900],
        train__anger__empty=b"",
        train__anger__huge=encoded(photo(9, 65)),
        train__fear__text=b"no image at all",
        train__fear__tiny=encoded(photo(9, 8)),
    )
    values = look(write_files(tmp_path / "d", files), settings=Settings(workers=1, examples=2))
    assert values["data_sets"][0]["files"]["status"] == {
        "ok": 7, "unreadable": 2, "empty": 1, "too_large": 1, "too_small": 1,
    }  # fmt: skip
    found = finding(values, "unreadable")
    assert (found["severity"], found["count"]) == ("warning", 5)
    assert found["examples"] == ["train/anger/cut.png", "train/anger/empty.png"]
    assert values["exit_status"] == 1


@pytest.mark.parametrize(("missing", "severity"), [(1, "warning"), (2, "error")])
def test_more_missing_photos_than_a_run_accepts_are_an_error(tmp_path: Path, missing: int, severity: str) -> None:
    files = {f"{i}.png": png(i) for i in range(20 - missing)}
    rows = [f"{i}.png,{'happy' if i % 2 else 'sad'}" for i in range(20)]
    table = "\n".join(["path,label", *rows]).encode()
    found = finding(look(write_files(tmp_path / "d", {**files, "labels.csv": table})), "unreadable")
    assert (found["severity"], found["count"]) == (severity, missing)
    assert ("a run refuses a larger share of missing ones than" in found["text"]) is (severity == "error")


def test_without_a_scan_only_names_and_counts_are_looked_at(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "d", {**class_folders(), "test/fear/1.png": b"damaged"})
    values = look(folder, settings=Settings(scan=False))
    assert (values["data_sets"][0]["files"], values["copies"], values["exit_status"]) == (None, [], 0)
    assert "not read (--no-scan)" in page(values)


def test_worker_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_files(tmp_path / "d", class_folders(test__fear__near=near_copy(4), train__fear__bad=b"x"))
    here = look(folder)
    monkeypatch.setattr(scan, "_CHUNK", 2)
    assert look(folder, settings=Settings(workers=2)) == here


def test_page_fits_and_is_plain(tmp_path: Path) -> None:
    files = class_folders(test__anger__same=png(1), **{f"train__anger__{'long' * 30}": png(2)})
    values = look(write_files(tmp_path / "d", {**files, "train/anger/\x1b[2Jx.png": b"bad", "train/anger/x.pdf": b"x"}))
    assert json.loads(json.dumps(values)) == values
    assert codes(values)[0] == ("error", "test_in_training")
    assert {("warning", "not_images"), ("warning", "unreadable")} < set(codes(values))
    text = page(values)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    assert r"train/anger/\x1b[2Jx.png" in text
    assert text.splitlines()[0] == f"one folder per class  {tmp_path / 'd'}"[:100].rstrip()
    assert "  anger      5     2" in text
    assert "test/anger/same.png = train/anger/1.png" in text
    assert text.rstrip().endswith("; exit status 2.")
