"""From a folder of faces to the settings of a run."""

from pathlib import Path

import pytest

from ssfer.config.schema import load_params
from ssfer.core.errors import SsferError
from ssfer.datasets.registry import open_source
from ssfer.doctor.entry import use_of_path
from ssfer.doctor.examination import Settings
from ssfer.project.new import new_project, set_data
from tests.support.doctor_files import look
from tests.support.image_files import encoded, picture
from tests.support.source_files import write_files


def photos(folder: Path, names: list[str], side: int = 48) -> Path:
    return write_files(folder, {name: encoded(picture(side, side, i)) for i, name in enumerate(names)})


CROPS = ["train/happy/1.png", "train/sad/2.png", "val/happy/3.png"]
OWN = ["smiling/1.png", "calm/2.png"]  # may be people, so their kind is said


@pytest.mark.parametrize(
    ("names", "kind", "side", "align", "fold"),
    [
        (CROPS, None, 48, "resize", None),
        (CROPS, None, 300, "similarity", None),
        (OWN, "class_folders", 48, "resize", 0),
    ],
)
def test_project_of_own_data_opens_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    kind: str | None,
    side: int,
    align: str,
    fold: int | None,
) -> None:
    use = use_of_path(photos(tmp_path / "My Faces", names, side), kind)
    new_project(tmp_path / "project")
    set_data(tmp_path / "project", *use[:3])
    monkeypatch.chdir(tmp_path / "project")
    params = load_params()
    (source,) = params.data.sources
    assert (params.data.raw, params.data.classes, source.align, params.split.fold) == ("my-faces", "auto", align, fold)
    assert params.split.fold_by == ("image" if fold is None else "class")
    assert params.report.gallery is False and params.corpus.keep_undetected is (align == "resize")
    assert any("taken for face crops" in remark for remark in use.remarks) is (align == "resize")
    opened = open_source(source, Path("data/raw") / params.data.raw)
    assert {r.label for r in opened.records()} == ({"smiling", "calm"} if kind else {"happiness", "sadness"})


@pytest.mark.parametrize(
    ("names", "batch"),
    [
        ([f"train/{c}/{i}.png" for c in ("happy", "sad") for i in range(20)] + ["val/happy/1.png"], 8),
        (CROPS, 2),
        ([f"train/{c}/{i}.png" for c in ("happy", "sad") for i in range(128)] + ["val/happy/1.png"], None),
    ],
)
def test_few_photos_get_a_smaller_batch_for_pretraining(tmp_path: Path, names: list[str], batch: int | None) -> None:
    photo = encoded(picture(48, 48))
    use = use_of_path(write_files(tmp_path / "set", dict.fromkeys(names, photo)))
    assert use.settings.get("pretrain", {}).get("batch_size") == batch
    assert any("pretrain.batch_size" in remark for remark in use.remarks) is (batch is not None)


def test_folders_that_may_be_people_are_no_guess(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match="has no labels .*--kind class_folders"):
        use_of_path(photos(tmp_path / "set", OWN))


def test_table_comes_with_the_photos_beside_it(tmp_path: Path) -> None:
    photos(tmp_path / "set", ["a.png", "b.png"])
    (tmp_path / "set/table.csv").write_text("path,label\na.png,angry\nb.png,happy\n")
    use = use_of_path(tmp_path / "set/table.csv")
    assert use.settings["data"]["sources"][0]["path"] == "table.csv" and use.settings["split"]["fold"] == 0
    assert use.place == tmp_path / "set"


@pytest.mark.parametrize(
    ("header", "rows", "usage", "tested"),
    [
        ("path,label,usage", "a.png,angry,train\nb.png,happy,test\n", "usage", True),
        ("Usage;emotion;Image", "Training;angry;a.png\nPrivateTest;happy;b.png\n", "Usage", True),
        ("path,label,split", "a.png,angry,7\nb.png,happy,8\n", None, False),
    ],
)
def test_columns_that_say_what_they_are_are_used(
    tmp_path: Path, header: str, rows: str, usage: str | None, tested: bool
) -> None:
    """Else the test photos of a table would be trained on."""
    photos(tmp_path / "set", ["a.png", "b.png"])
    (tmp_path / "set/table.csv").write_text(f"{header}\n{rows}")
    use = use_of_path(tmp_path / "set/table.csv")
    assert use.settings["data"]["sources"][0].get("usage_column") == usage
    assert use.settings.get("split", {}).get("fold") == (None if tested else 0)


def test_photos_without_labels_are_refused_with_what_lies_beside_them(tmp_path: Path) -> None:
    photos(tmp_path / "set", ["img/a.png", "img/b.png"])
    (tmp_path / "set/table.csv").write_text("path,mood\nimg/a.png,1\nimg/b.png,2\n")
    with pytest.raises(
        SsferError, match=r"has no labels .*table\.csv lists 2 of the 2 photos .* columns \(mood\) is known"
    ):
        use_of_path(tmp_path / "set")


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match="has one class only, happiness"):
        use_of_path(photos(tmp_path / "set", ["train/happy/1.png", "test/happy/2.png"]))


def test_the_folder_of_the_demo_is_no_place_for_own_photos(tmp_path: Path) -> None:
    """Stage generate would replace it."""
    assert use_of_path(photos(tmp_path / "Synthetic", CROPS)).raw == "own-synthetic"


def test_photos_without_a_label_go_with_all_labels(tmp_path: Path) -> None:
    """Else a tenth of the labels is used, which is said."""
    use = use_of_path(photos(tmp_path / "some", [*CROPS, "unlabeled/4.png"]))
    assert use.settings["split"] == {"labeled_fraction": 1.0}
    use = use_of_path(photos(tmp_path / "all", CROPS))
    assert "split" not in use.settings and any("takes the labels of 10% of the photos" in r for r in use.remarks)


def test_classes_are_said_with_their_photos(tmp_path: Path) -> None:
    use = use_of_path(photos(tmp_path / "faces", CROPS))
    assert use.remarks[0] == "2 classes (training + test photos): happiness 1 + 1, sadness 1 + 0"
    assert use_of_path(photos(tmp_path / "own", OWN), "class_folders").remarks[0] == (
        "2 classes (training photos): calm 1, smiling 1"
    )


def test_a_class_that_only_test_photos_have_is_said(tmp_path: Path) -> None:
    use = use_of_path(photos(tmp_path / "faces", [*CROPS, "val/hapy/4.png"]))
    (warning,) = (remark for remark in use.remarks if remark.startswith("WARNING"))
    assert "no training photo shows hapy, so a run leaves out the test photos of it" in warning


def test_a_table_with_many_missing_photos_can_be_run_and_they_are_said(tmp_path: Path) -> None:
    folder = photos(tmp_path / "faces", [f"{i}.png" for i in range(18)])
    rows = [f"{i}.png,{'happy' if i % 2 else 'sad'}" for i in range(20)]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows]))
    use = use_of_path(folder)
    assert use.settings["data"]["max_missing"] == 0.1
    assert any("WARNING: 2 of the 20 listed photos are missing" in remark for remark in use.remarks)
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows[:18]]))
    use = use_of_path(folder)
    assert "max_missing" not in use.settings["data"] and not [r for r in use.remarks if "WARNING" in r]


def test_several_data_sets_are_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        photos(tmp_path / "all" / name, CROPS)
    with pytest.raises(SsferError, match=r"holds 2 data sets \(.*one, .*two\); name one"):
        use_of_path(tmp_path / "all")


@pytest.mark.parametrize(("names", "split"), [(OWN, {"fold": 0, "fold_by": "class"}), (CROPS, None)])
def test_settings_that_the_report_prints_are_those_of_a_new_project(
    tmp_path: Path, names: list[str], split: dict[str, object] | None
) -> None:
    """Without `split.fold` stage split refuses data without a test part."""
    folder = photos(tmp_path / "set", names)
    (data_set,) = look(folder, settings=Settings(kind="class_folders", scan=False))["data_sets"]
    assert data_set["use"] == use_of_path(folder, "class_folders").settings and data_set["use"].get("split") == split


def test_photos_of_which_none_can_be_decoded_are_refused(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "set", {"happy/a.jpg": b"no picture", "sad/b.jpg": b"no picture"})
    message = r"none of the 2 files that were read can be decoded, such as 'happy/a.jpg'; replace the damaged files"
    with pytest.raises(SsferError, match=message):
        use_of_path(folder)
    (folder / "sad/b.jpg").write_bytes(encoded(picture(48, 48)))
    assert use_of_path(folder).settings["data"]["raw"] == "set"


def test_folders_without_photos_are_said(tmp_path: Path) -> None:
    folder = photos(tmp_path / "set", [*CROPS, "test/sad/notes/4.png"])
    for name in ("train/empty/deep", "val/sad", "train/sad/notes", ".hidden"):
        (folder / name).mkdir(parents=True)
    (folder / "train/empty/list.txt").touch()
    said = ["folder train/empty has no photos and is not a class", "folder val/sad has no photos"]
    assert [remark for remark in use_of_path(folder).remarks if "has no photos" in remark] == said
    found = [f for f in look(folder)["findings"] if f["code"] == "empty_folder"]
    assert [(f["severity"], f["text"]) for f in found] == [("info", f"set: {sentence}") for sentence in said]
