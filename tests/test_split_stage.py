"""Stage split: who takes part, who is left out and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import factory
import pyarrow as pa
import pytest

from ssfer.data.split import SPLIT_FILE, load_split
from ssfer.errors import SsferError
from ssfer.manifest import MANIFEST_NAME, SCHEMA, read_manifest, write_manifest
from ssfer.params import Params
from ssfer.pipeline.split import run_split

CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")


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


def test_parts_are_disjoint_stratified_and_complete(faces: Path) -> None:
    result = run_split(params(labeled_fraction=0.5, val_fraction=0.2))
    split = load_split()
    parts = [set(split[p]) for p in ("labeled", "valid", "unlabeled", "test")]
    assert [len(p) for p in parts] == [56, 14, 70, 14]
    assert len(set.union(*parts)) == 154
    assert result["per_class"]["fear"] == {"labeled": 8, "valid": 2, "unlabeled": 10, "test": 2}
    assert json.loads(Path("metrics/split.json").read_text())["split"]["hash"] == split["hash"]


def test_no_training_image_that_equals_a_test_image_takes_part(faces: Path) -> None:
    copied = read_manifest(faces)["pixel_sha256"].to_pylist()[150]
    edit(faces, 3, pixel_sha256=copied)
    result = run_split(params())
    split = load_split()
    assert result["dropped"]["copy_of_test_image"] == 1
    twin = "faces/train000003"
    assert all(twin not in split[p] for p in ("labeled", "valid", "unlabeled", "test"))


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


def test_budget_that_the_data_cannot_meet_is_refused(faces: Path) -> None:
    with pytest.raises(SsferError, match="a budget of 900 labels cannot be met: 7 classes with 140 training images"):
        run_split(params(labeled_fraction=None, labeled_total=900))
