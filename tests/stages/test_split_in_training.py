"""What later stages make of a split: other faces are refused, the second draw is used, few labels shrink batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.places import METRICS, WEIGHTS
from ssfer.data.dataset import FaceDataset
from ssfer.data.split import load_split
from ssfer.formats.manifest import MANIFEST_NAME, read_manifest, write_manifest
from ssfer.stages import semisup
from ssfer.stages.common import save_classifier, seeded_classifier, split_dataset
from ssfer.stages.evaluate import run_evaluate
from ssfer.stages.finetune import plan, run_finetune
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


def test_stage_semisup_trains_on_the_second_draw(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = load_split()
    everyone = split["labeled"] + split["unlabeled"]
    leak = {"semi_labeled": everyone[9:24], "semi_unlabeled": everyone[:9] + everyone[24:], "label_leak": True}
    factory.change_split(**leak)
    params = factory.tiny_params(semisup={"epochs": 1})
    start = WEIGHTS / "finetune/facemix_last.safetensors"
    save_classifier(start, seeded_classifier(params, 3, 0).state_dict(), params, load_split())
    seen: dict[str, list[str]] = {}

    stream = semisup.Stream

    def watched(name: str, dataset: FaceDataset, *rest: Any, **more: Any) -> Any:
        seen[name] = dataset.ids
        return stream(name, dataset, *rest, **more)

    monkeypatch.setattr(semisup, "Stream", watched)
    run_semisup(params)
    assert seen == {"lb": leak["semi_labeled"], "ulb": leak["semi_unlabeled"]}
    assert split_dataset(load_split(), "labeled", params, "finetune").ids == split["labeled"]


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
    assert json.loads((METRICS / "evaluate.json").read_text())["evaluate"]["test_images"] == 12


@pytest.mark.parametrize(
    ("labeled", "expected"), [(70, (1000, 32)), (63, (1000, 32)), (33, (1000, 32)), (31, (1000, 30)), (500, (100, 32))]
)
def test_ten_labels_per_class_train_for_a_thousand_epochs(labeled: int, expected: tuple[int, int]) -> None:
    """SSFER, Table 3: 70 labels of 7 classes, 63 where a tenth is held out."""
    paper = factory.tiny_params(
        finetune={"epochs": 100, "epochs_few_labels": 1000, "few_labels": 500, "batch_size": 32}
    )
    assert plan(paper.finetune, labeled) == expected


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
    assert plan(params.finetune, labeled) == (2, batch)
    assert run_finetune(params)["facemix"]["loss"] > 0
    assert run_semisup(params)["loss"] > 0
