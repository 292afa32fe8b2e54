"""What later stages make of a split: other faces are refused, the second draw is used, few labels shrink batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.data.split import load_split
from ssfer.formats.manifest import MANIFEST_NAME, read_manifest, write_manifest
from ssfer.formats.metrics import read_metrics
from ssfer.stages.evaluate import run_evaluate
from ssfer.stages.finetune import epochs_and_batch, run_finetune
from ssfer.stages.pretrain import run_pretrain
from ssfer.stages.semisup import run_semisup
from tests.support import factory


@pytest.fixture
def faces(project: Path) -> Path:
    """The project with 48 training and 12 test faces of three classes, and a split of them."""
    factory.write_project(project)
    return project


def relabel(row: dict[str, Any]) -> None:
    row["label"] = "surprise" if row["label"] != "surprise" else "anger"


def repaint(row: dict[str, Any]) -> None:
    row["pixel_sha256"] = "another picture"


@pytest.mark.parametrize("stage", [run_finetune, run_semisup, run_evaluate], ids=lambda f: f.__name__)
@pytest.mark.parametrize("source", ["faces", "exam"])
@pytest.mark.parametrize("change", [relabel, repaint], ids=lambda f: f.__name__)
def test_every_later_stage_refuses_a_split_of_other_faces(
    faces: Path, stage: Callable[[Params], Any], source: str, change: Callable[[dict[str, Any]], None]
) -> None:
    folder = Path("data/faces") / source
    rows = read_manifest(folder).to_pylist()
    change(rows[5])
    write_manifest(rows, folder / MANIFEST_NAME)
    with pytest.raises(SsferError, match=r"split\.json was drawn from other faces .* run dvc repro split$") as error:
        stage(factory.tiny_params())
    assert "\n" not in str(error.value)


def test_a_split_of_the_stored_faces_is_read_and_may_be_read_without_them(faces: Path) -> None:
    assert load_split() == load_split(faces=None)
    (faces / "data/faces/exam" / MANIFEST_NAME).unlink()
    assert load_split(faces=None)["sources"] == ["faces", "exam"]
    with pytest.raises(SsferError, match=r"no manifest at data/faces/exam/manifest\.parquet"):
        load_split()


def test_the_whole_training_runs_on_noisy_labels_without_a_validation_part(faces: Path) -> None:
    """The paper's budget has no validation part; wrong labels change what is learned, not what is tested on."""
    split = load_split()
    params = factory.tiny_params(
        pretrain={"epochs": 1}, finetune={"baselines": [], "epochs_few_labels": 1}, semisup={"epochs": 1}
    )
    run_pretrain(params)
    losses, tested = [], []
    for noisy in ({}, {"noisy": {i: "anger" for i in split["labeled"][1:]}}):
        factory.change_split(valid=[], **noisy)
        losses.append(run_finetune(params)["facemix"]["loss"])
        run_semisup(params)
        tested.append(run_evaluate(params)["majority_rate"])
    assert losses[0] != losses[1]
    assert tested == [0.333333, 0.333333]
    assert read_metrics("evaluate")["test_images"] == 12


@pytest.mark.parametrize(("labeled", "batch"), [(18, 16), (15, 14), (3, 2)])
def test_fewer_labels_than_a_batch_make_a_smaller_batch_and_never_no_step(
    faces: Path, labeled: int, batch: int
) -> None:
    """Specification, section 14, row 32: the release drops the last batch, which may be the only one."""
    split = load_split()
    factory.change_split(labeled=split["labeled"][:labeled], valid=[])
    params = factory.tiny_params(
        pretrain={"epochs": 1},
        finetune={"baselines": [], "epochs_few_labels": 2, "batch_size": 16},
        semisup={"epochs": 1, "batch_size": 24},
    )
    run_pretrain(params)
    assert epochs_and_batch(params.finetune, labeled) == (2, batch)
    assert run_finetune(params)["facemix"]["loss"] > 0
    assert run_semisup(params)["loss"] > 0
