"""Stage split: who takes part, who is left out and why."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ssfer.config.schema import Params, parse_params
from ssfer.core.errors import SsferError
from ssfer.core.places import SPLIT_FILE
from ssfer.data.label_noise import noisy_labels
from ssfer.data.split import load_split
from ssfer.formats.manifest import MANIFEST_NAME, SCHEMA, read_manifest, write_manifest
from ssfer.formats.metrics import read_metrics
from ssfer.stages import split as stage_split
from ssfer.stages.common import split_dataset
from ssfer.stages.split import run_split
from tests.support import factory
from tests.support.other_workers import Scattered

CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
PARTS = ("labeled", "valid", "unlabeled", "test")


def source(labeled: bool = True) -> dict[str, Any]:
    return {"name": "faces", "kind": "rendered", "path": "x", "labeled": labeled, "align": "similarity"}


def params(**split: Any) -> Params:
    return factory.tiny_params(data={"sources": [source()]}, split=split)


@pytest.fixture
def faces(project: Path) -> Path:
    """20 training and 2 test images of each of seven classes in data/faces/faces."""
    folder = project / "data/faces/faces"
    factory.write_faces(folder, "faces", [i % 3 for i in range(154)])
    rows = read_manifest(folder).to_pylist()
    for i, row in enumerate(rows):
        row |= {"label": CLASSES[i % 7], "usage": "test" if i >= 140 else "train"}
    write_manifest(rows, folder / MANIFEST_NAME)
    return folder


def edit(folder: Path, index: int, **values: Any) -> None:
    rows = read_manifest(folder).to_pylist()
    rows[index].update(values)
    write_manifest(pa.Table.from_pylist(rows, schema=SCHEMA), folder / MANIFEST_NAME)


def test_an_empty_validation_part_is_told(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_split(params(labeled_fraction=None, labeled_per_class=4))
    assert "split.val_fraction 0.1 of 28 labels holds no image out" in capsys.readouterr().err
    run_split(params(labeled_fraction=None, labeled_per_class=4, val_fraction=0.0))  # as the user wants it
    assert "val_fraction" not in capsys.readouterr().err


@pytest.mark.parametrize("fold", [None, 0])
def test_doubtful_landmarks_leave_training_when_asked_and_never_the_test_part(faces: Path, fold: int | None) -> None:
    ids = read_manifest(faces).column("sample_id").to_pylist()
    doubtful = {*range(0, 60, 3), 141}  # 20 training images, and one of the official test part
    for i in doubtful:
        edit(faces, i, landmark_flag="scale")
    kept = run_split(params(fold=fold))
    before = factory.whole_split()
    assert "doubtful_landmarks" not in kept["dropped"]
    dropped = run_split(params(fold=fold, flagged="drop"))
    after = factory.whole_split()
    assert after["test"] == before["test"]
    tested = doubtful & {ids.index(i) for i in after["test"]}
    assert tested
    train = [{i for part in PARTS[:3] for i in split[part]} for split in (before, after)]
    assert train[0] - train[1] == {ids[i] for i in doubtful - tested if i < 140}
    assert dropped["dropped"]["doubtful_landmarks"] == len(train[0] - train[1])


def test_doubtful_landmarks_leave_the_faces_without_a_label_too(faces: Path) -> None:
    edit(faces, 3, label=None, landmark_flag="scale")
    edit(faces, 4, label=None)
    entry = {**source(), "kind": "csv"}
    run_split(factory.tiny_params(data={"sources": [entry]}, split={"flagged": "drop"}))
    unlabeled = factory.whole_split()["unlabeled"]
    ids = read_manifest(faces).column("sample_id").to_pylist()
    assert ids[4] in unlabeled and ids[3] not in unlabeled


def test_parts_are_disjoint_stratified_and_complete(faces: Path) -> None:
    result = run_split(params(labeled_fraction=0.5, val_fraction=0.2))
    split = factory.whole_split()
    parts = [set(split[p]) for p in ("labeled", "valid", "unlabeled", "test")]
    assert [len(p) for p in parts] == [56, 14, 70, 14]
    assert len(set.union(*parts)) == 154
    assert result["per_class"]["fear"] == {"labeled": 8, "valid": 2, "unlabeled": 10, "test": 2}
    assert read_metrics("split")["hash"] == split["hash"]


def test_no_training_image_that_equals_a_test_image_takes_part(faces: Path) -> None:
    copied = read_manifest(faces)["pixel_sha256"].to_pylist()[150]
    edit(faces, 3, pixel_sha256=copied)
    result = run_split(params())
    split = factory.whole_split()
    assert result["dropped"]["copy_of_test_image"] == 1
    twin = "faces/train000003"
    assert all(twin not in split[p] for p in ("labeled", "valid", "unlabeled", "test"))


def test_own_classes_keep_their_order_and_auto_takes_what_there_is(faces: Path) -> None:
    for i in range(0, 154, 7):  # the images of anger
        edit(faces, i, label="bored")
    own = params().model_dump(mode="json")
    for classes, found in (
        (["Bored", "sad", "happy"], ["bored", "sadness", "happiness"]),
        ("auto", ["neutral", "happiness", "surprise", "sadness", "disgust", "fear", "bored"]),
    ):
        own["data"]["classes"] = classes
        run_split(parse_params(own))
        split = factory.whole_split()
        assert split["classes"] == found
        assert len(split["test"]) == 2 * len(found)


def test_without_a_test_part_the_split_says_what_to_do(faces: Path) -> None:
    for i in range(140, 154):
        edit(faces, i, usage="train")
    with pytest.raises(SsferError, match=r"no test part, .*split\.fold: 0"):
        run_split(params())
    assert not SPLIT_FILE.exists()


@pytest.mark.parametrize(
    ("bare_faces", "kind", "added"),
    [("tables", "csv", 5), ("tables", "class_folders", 5), ("none", "csv", 0), ("tables", "rendered", 0)],
)
def test_rows_of_a_table_without_a_label_are_unlabeled_faces(
    faces: Path, bare_faces: str, kind: str, added: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(6):
        edit(faces, i, label=None, usage="none")
    edit(faces, 5, pixel_sha256=read_manifest(faces)["pixel_sha256"].to_pylist()[150])  # a test image's copy
    entry = {**source(), "kind": kind}
    result = run_split(factory.tiny_params(data={"sources": [entry]}, split={"bare_faces": bare_faces}))
    split = factory.whole_split()
    assert len([i for i in split["unlabeled"] if i in {f"faces/train{k:06d}" for k in range(6)}]) == added
    assert result["dropped"]["label_outside_class_set"] == 6 - added
    assert (
        result.get("bare_faces", 0) == added
        and f"{added} faces without a label" * bool(added) in capsys.readouterr().err
    )


def test_sources_without_labels_join_only_when_asked(faces: Path, project: Path) -> None:
    factory.write_faces(project / "data/faces/people", "people", [0] * 9)
    people = {**source(labeled=False), "name": "people"}
    for bare_faces, added in (("tables", 0), ("all", 9)):
        run_split(factory.tiny_params(data={"sources": [source(), people]}, split={"bare_faces": bare_faces}))
        split = factory.whole_split()
        assert sum(i.startswith("people/") for i in split["unlabeled"]) == added
        assert split["sources"] == ["faces", "people"][: 1 + bool(added)]
        assert not any(i.startswith("people/") for part in ("labeled", "valid", "test") for i in split[part])


def test_a_method_that_will_train_nothing_is_announced(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_split(params(labeled_fraction=1.0))
    assert "no face is unlabeled, so ema_teacher will train nothing" in capsys.readouterr().err


def test_rows_without_crop_foreign_labels_and_official_validation_are_counted_out(faces: Path) -> None:
    edit(faces, 0, shard=None, status="unreadable")
    edit(faces, 1, label="contempt")
    edit(faces, 2, usage="valid")
    result = run_split(params())
    assert result["dropped"] == {
        "not_stored": 1,
        "label_outside_class_set": 1,
        "official_validation": 1,
        "copy_of_test_image": 0,
    }
    assert result["labeled"] + result["valid"] + result["unlabeled"] == 137


def test_same_seed_same_file_other_seed_other_file(faces: Path) -> None:
    first, again, other = (run_split(params(seed=s))["hash"] for s in (1, 1, 2))
    assert first == again != other


def test_class_without_training_images_is_refused_and_the_old_split_stays(faces: Path) -> None:
    run_split(params())
    before = SPLIT_FILE.read_bytes()
    for i in range(5, 140, 7):
        edit(faces, i, usage="none")
    with pytest.raises(SsferError, match="no training image has the label sadness; expected all of anger, disgust"):
        run_split(params())
    assert SPLIT_FILE.read_bytes() == before


def test_a_class_smaller_than_the_budget_is_refused_or_gives_what_it_has(faces: Path) -> None:
    for i in range(2, 100, 7):  # 14 of 20 images of fear
        edit(faces, i, usage="none")
    budget = {"labeled_fraction": None, "labeled_per_class": 10, "val_fraction": 0.0}
    with pytest.raises(SsferError, match="10 labels per class cannot be met: 'fear' has 6 training images"):
        run_split(params(**budget))
    assert not SPLIT_FILE.exists()
    result = run_split(params(**budget, per_class_shortage="cap"))
    assert result["labeled"] == 66
    assert result["per_class"]["fear"] == {"labeled": 6, "valid": 0, "unlabeled": 0, "test": 2}


@pytest.mark.parametrize(
    ("budget", "hash_", "metrics"),
    [
        ({}, "e55d074c0496", "cdcb65fdda38"),
        ({"labeled_fraction": None, "labeled_per_class": 10, "val_fraction": 0.2}, "324f7fe183d4", "3aa79861ef27"),
        ({"labeled_fraction": None, "labeled_total": 30}, "ead92cd8eda3", "e5a888220d70"),
    ],
)
def test_options_that_are_off_leave_no_trace(faces: Path, budget: dict[str, Any], hash_: str, metrics: str) -> None:
    """Recorded before label noise, folds and the second draw existed: the demo's weights depend on the hash."""
    off = {"folds": 7, "fold_seed": 1, "fold_by": "identity", "per_class_shortage": "cap"}  # of no use without a fold
    for p in (params(**budget), params(**budget, **off)):
        assert run_split(p)["hash"].startswith(hash_)
        details = json.dumps({"split": read_metrics("split")}, indent=2, sort_keys=True) + "\n"
        assert hashlib.sha256(details.encode()).hexdigest().startswith(metrics)


def test_no_leak_without_asking(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Invariant 13: stages 2 and 3 read the same labeled ids."""
    result = run_split(params(labeled_fraction=0.25))
    split = load_split()
    assert not [key for key in (*split, *result) if "semi" in key or "leak" in key]
    for stage in ("finetune", "semisup"):
        assert split_dataset(split, "labeled", params(), stage=stage).ids == split["labeled"]
    assert "LEAK" not in capsys.readouterr().err


@pytest.mark.parametrize("val_fraction", [0.0, 0.4])
def test_the_leak_is_drawn_counted_and_loudly_named(
    faces: Path, val_fraction: float, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = draw(val_fraction=val_fraction)
    result = run_split(params(labeled_fraction=0.25, val_fraction=val_fraction, redraw_for_semi=True))
    split = factory.whole_split()
    for part in ("labeled", "valid", "unlabeled", "test"):
        assert split[part] == clean[part]
    again, rest = split["semi_labeled"], split["semi_unlabeled"]
    assert len(again) == len(split["labeled"]) == result["semi_labeled"]
    assert sorted([*again, *rest, *split["valid"]]) == sorted(split["labeled"] + split["unlabeled"] + split["valid"])
    used = len({*split["labeled"], *split["valid"], *again})
    assert used > 35
    assert split["label_leak"] is True
    assert (result["label_leak"], result["labels_used"]) == (True, used)
    err = capsys.readouterr().err
    assert "LABEL LEAK: split.redraw_for_semi draws the labels of stage semisup again" in err
    assert f"{used} labels ({used / 140:.2%}) instead of 35 (25.00%)" in err
    assert split_dataset(split, "labeled", params(), stage="semisup").ids == again
    assert split_dataset(split, "unlabeled", params(), stage="semisup").ids == rest
    assert split_dataset(split, "valid", params(), stage="semisup").ids == split["valid"]
    assert split_dataset(split, "labeled", params()).ids == split["labeled"]


def draw(**split: Any) -> dict[str, Any]:
    """The split of these settings with a quarter of the labels."""
    run_split(params(**({"labeled_fraction": 0.25} | split)))
    return factory.whole_split()


def test_label_noise_is_part_of_the_split_and_changes_no_other_part(
    faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """5 labels of each class, of which 2 are held out; 40 % of 5 are 2 wrong ones, 60 % are 3."""
    clean = draw(val_fraction=0.4)
    some, more = (draw(val_fraction=0.4, label_noise=share) for share in (0.4, 0.6))
    truth = {f"faces/train{i:06d}": CLASSES[i % 7] for i in range(154)}
    for split, wrong in ((some, 2), (more, 3)):
        assert {part: split[part] for part in PARTS} == {part: clean[part] for part in PARTS}
        assert set(split["noisy"]) <= {*split["labeled"], *split["valid"]}
        assert Counter(truth[i] for i in split["noisy"]) == dict.fromkeys(CLASSES, wrong)
        assert all(name in CLASSES and name != truth[i] for i, name in split["noisy"].items())
    assert some["noisy"].items() < more["noisy"].items()
    assert set(more["noisy"]) & set(more["valid"])  # validation labels are as wrong as the others
    assert len({split["hash"] for split in (clean, some, more)}) == 3
    assert draw(val_fraction=0.4, label_noise=0.4) == some
    assert read_metrics("split")["label_noise"] == {"share": 0.4, "images": 14}
    assert "label noise: 14 labeled images have a wrong label" in capsys.readouterr().err


def test_label_noise_of_a_leaking_split_covers_both_draws(faces: Path) -> None:
    split = draw(val_fraction=0.4, label_noise=0.6, redraw_for_semi=True, seed=5)
    told = sorted({*split["labeled"], *split["valid"], *split["semi_labeled"]})  # sorted: in the manifest's order
    labels = [int(i[-6:]) % 7 for i in told]
    noisy = noisy_labels(labels, 7, 0.6, seed=5)
    wrong = zip(told, labels, noisy.tolist(), strict=True)
    assert split["noisy"] == {i: CLASSES[found] for i, true, found in wrong if found != true}
    assert set(split["noisy"]) & set(split["valid"])
    assert set(split["noisy"]) - set(split["labeled"]) - set(split["valid"])


def test_each_training_image_is_tested_on_in_one_fold_and_the_official_test_part_in_none(
    faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Invariant 13, fold by fold."""
    folds = [draw(fold=k) for k in range(5)]
    training = {f"faces/train{i:06d}" for i in range(140)}
    assert sorted(i for split in folds for i in split["test"]) == sorted(training)
    for split in folds:
        assert len(split["test"]) == 28
        rest = [i for part in PARTS[:3] for i in split[part]]
        assert sorted([*rest, *split["test"]]) == sorted(training)
        assert 0.25 * 112 - 4 <= len(split["labeled"]) + len(split["valid"]) <= 0.25 * 112 + 4
        expected = {"folds": 5, "fold_by": "image", "fold_seed": 42}
        assert {k: split["params"][k] for k in expected} == expected
    assert len({split["hash"] for split in folds}) == 5
    result = read_metrics("split")
    assert result["dropped"]["official_test"] == 14
    assert result["fold"] == {"fold": 4, "folds": 5, "by": "image", "pretraining_saw_it": True}
    assert (
        "fold 4 of 0 to 4 is the test part; a test part of the data set's own is not opened" in capsys.readouterr().err
    )


def test_folds_by_class_have_every_class(faces: Path) -> None:
    for k in range(5):
        draw(fold=k, fold_by="class")
        assert [count["test"] for count in read_metrics("split")["per_class"].values()] == [4] * 7


def test_classes_that_cannot_be_tested_and_copies_are_said(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(faces, 3, pixel_sha256=read_manifest(faces)["pixel_sha256"].to_pylist()[150])
    edit(faces, 140, shard=None)
    edit(faces, 147, shard=None)
    run_split(params())
    said = capsys.readouterr().err
    assert "split: left out: 2 without a stored crop, 1 training images that copy a test image\n" in said
    assert f"split: no test image shows {CLASSES[0]}, so nothing will be measured about it\n" in said


def test_a_class_whose_training_images_are_all_left_out_is_refused_with_the_reasons(faces: Path) -> None:
    for i in range(0, 140, 7):
        edit(faces, i, pixel_sha256=read_manifest(faces)["pixel_sha256"].to_pylist()[150])
    edit(faces, 0, shard=None)
    with pytest.raises(
        SsferError, match=f"no training image of {CLASSES[0]} is left: of 20, 1 cannot be read, 19 copy"
    ):
        run_split(params())


def test_seed_and_number_of_folds_change_the_fold_but_not_the_draws_rule(faces: Path) -> None:
    first, other, halves = draw(fold=0), draw(fold=0, fold_seed=1), draw(fold=0, folds=2)
    assert first["test"] != other["test"]
    assert len(halves["test"]) == 70
    assert draw(fold=0, seed=7)["test"] == first["test"]  # another draw of labels leaves the fold alone
    assert draw(fold=0, seed=7)["labeled"] != first["labeled"]


def test_copies_of_test_images_and_of_the_folds_images_are_not_trained_on(faces: Path) -> None:
    official = read_manifest(faces)["pixel_sha256"].to_pylist()[150]
    edit(faces, 3, pixel_sha256=official)
    for i in (4, 5):
        edit(faces, i, pixel_sha256="twins")
    for k in range(5):
        split = draw(fold=k)
        dropped = read_metrics("split")["dropped"]
        everyone = {i for part in PARTS for i in split[part]}
        assert "faces/train000003" not in everyone
        tested = {"faces/train000004", "faces/train000005"} & set(split["test"])
        assert dropped["copy_of_test_image"] == 1
        assert dropped["copy_of_fold_image"] == (1 if len(tested) == 1 else 0)
        assert len(everyone) == 139 - dropped["copy_of_fold_image"]


def test_workers_of_a_cluster_find_the_same_copies(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_split(params())
    alone, asked, workers = load_split(), list[Any](), Scattered()

    def workers_of(*settings: Any) -> AbstractContextManager[Scattered]:
        asked.append(settings)
        return nullcontext(workers)

    monkeypatch.setattr(stage_split, "workers_of", workers_of)
    assert run_split(factory.tiny_params(data={"sources": [source()]}, machine={"cluster": "ray"}))["test"] == 14
    assert load_split()["hash"] == alone["hash"]
    assert asked == [("ray", params().machine.num_workers, "split")] and workers.done


def test_labels_that_only_test_images_have_are_said(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(faces, 150, label="hapiness")
    own = {"sources": [source()], "classes": "auto"}
    assert run_split(factory.tiny_params(data=own))["test"] == 13
    assert "labels that no training image has, so their images are left out, also as test images: hapiness (1)" in (
        capsys.readouterr().err
    )
    run_split(params())  # these classes are the user's choice
    assert "hapiness" not in capsys.readouterr().err


def test_a_persons_photos_are_in_one_fold(faces: Path) -> None:
    rows = read_manifest(faces).to_pylist()
    for i, row in enumerate(rows):
        row["identity"] = f"person {i % 23}"
    write_manifest(pa.Table.from_pylist(rows, schema=SCHEMA), faces / MANIFEST_NAME)
    tested: list[str] = []
    for k in range(5):
        split = draw(fold=k, fold_by="identity")
        people = [{rows[int(i[-6:])]["identity"] for i in split[part]} for part in PARTS]
        assert not people[3] & set.union(*people[:3])
        tested += split["test"]
    assert sorted(tested) == [f"faces/train{i:06d}" for i in range(140)]


def test_official_folds_span_all_images_whatever_their_usage(faces: Path) -> None:
    """Adience has no test part: its importer calls one of the five folds so, which must make no difference."""
    rows = read_manifest(faces).to_pylist()
    for i, row in enumerate(rows):
        row["truth"] = json.dumps({"fold": i // 7 % 3})
    rows[0]["pixel_sha256"] = rows[147]["pixel_sha256"]  # usage train and test, both in fold 0: no reason to drop one
    write_manifest(pa.Table.from_pylist(rows, schema=SCHEMA), faces / MANIFEST_NAME)
    for k in range(3):
        split = draw(fold=k, folds=3, fold_by="official")
        assert split["test"] == [r["sample_id"] for i, r in enumerate(rows) if i // 7 % 3 == k]
        assert sorted(i for part in PARTS for i in split[part]) == sorted(r["sample_id"] for r in rows)
    assert read_metrics("split")["dropped"]["official_test"] == 0
    with pytest.raises(SsferError, match="split.folds is 5, but the data set ships with the folds 0, 1, 2"):
        draw(fold=0, fold_by="official")


def test_folds_that_the_data_set_does_not_have_are_refused(faces: Path) -> None:
    with pytest.raises(SsferError, match="ships with folds .adience., 154 of 154 images have none"):
        draw(fold=0, fold_by="official")
    with pytest.raises(SsferError, match="needs the person on every training image, 140 of 140 have none"):
        draw(fold=0, fold_by="identity")


def test_a_fold_that_is_none_of_them_is_refused() -> None:
    with pytest.raises(SsferError, match="fold 5 is none of the 5 folds, which are 0 to 4"):
        params(fold=5)
