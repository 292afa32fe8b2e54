"""metrics/<stage>.json: few numbers for DVC's tables, all of them for whoever reads the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssfer.core.errors import SsferError
from ssfer.formats.metrics import SUMMARIES, details_of, read_metrics, summary, write_metrics

ROOT = Path(__file__).resolve().parents[2]
CLEAN = {"accuracy": 0.8, "accuracy_ci95": [0.7, 0.9]}
DETAILS: dict[str, dict[str, Any]] = {
    "generate": {"images": {"people": 5, "test": 2, "train": 3}, "identities": {"people": 4, "test": 1, "train": 2}},
    "align": {
        "a": {"images": 5, "stored": 4, "face_found": 4, "status": {"ok": 4, "unreadable": 1}},
        "b": {"images": 3, "stored": 3, "face_found": 1, "status": {"ok": 1, "no_face": 1, "empty": 1}},
    },
    "corpus": {"considered": 9, "kept": 6, "dropped": {"no_face": 2, "near_copy_of_image": 1}, "by_source": {}},
    "finetune": {"facemix": {"loss": 1.5, "epochs": 2, "val_accuracy_last": None}, "scratch": {"loss": 9.0}},
    "evaluate": {"headline": {**CLEAN, "ece": 0.1, "recall": {"joy": 1.0}}, "test_images": 4, "models": {"a": {}}},
    "robustness": {
        "models": {
            "teacher": {
                "focused": {"0": CLEAN, "0.02": {"accuracy": 0.3}, "0.1": {"accuracy": 0.2}},
                "rest": {"0": CLEAN, "0.02": {"accuracy": 0.6}, "0.1": {"accuracy": 0.5}},
                "focused_share": 0.2,
            }
        }
    },
}
EXPECTED = {
    "generate": {"photos": 10, "people": 7},
    "align": {"images": 8, "stored": 7, "face_found": 5, "no_face": 1, "unreadable": 2},
    "corpus": {"considered": 9, "kept": 6, "dropped": 3},
    "finetune": {"loss": 1.5, "epochs": 2},
    "evaluate": {"accuracy": 0.8, "ece": 0.1, "test_images": 4},
    "robustness": {"clean": 0.8, "focused": 0.2, "rest": 0.5},
}


@pytest.mark.parametrize("stage", EXPECTED)
def test_the_few_numbers_of_a_stage(stage: str) -> None:
    assert summary(stage, DETAILS[stage]) == EXPECTED[stage]


@pytest.mark.parametrize("stage", SUMMARIES)
def test_a_committed_result_has_at_most_six_numbers(stage: str) -> None:
    few = summary(stage, read_metrics(stage, ROOT / "metrics"))
    assert 0 < len(few) <= 6 and all(isinstance(value, int | float) for value in few.values())


def test_details_come_back_and_dvc_shows_the_few_numbers_only(tmp_path: Path) -> None:
    from dvc.repo.metrics.show import _extract_metrics

    write_metrics("evaluate", DETAILS["evaluate"], tmp_path)
    assert read_metrics("evaluate", tmp_path) == DETAILS["evaluate"]
    content = json.loads((tmp_path / "evaluate.json").read_text())
    assert _extract_metrics(content, "evaluate.json") == {"evaluate": EXPECTED["evaluate"]}


def test_files_of_an_earlier_ssfer_are_read() -> None:
    assert details_of({"corpus": DETAILS["corpus"]}, "corpus") == DETAILS["corpus"]


@pytest.mark.parametrize("content", [{}, [], {"corpus": 3}, {"corpus": {"details": []}}, {"corpus": {"details": [1]}}])
def test_another_file_is_refused(content: Any, tmp_path: Path) -> None:
    (tmp_path / "corpus.json").write_text(json.dumps(content))
    with pytest.raises(SsferError, match=r"should hold the results of 'corpus', .*run dvc repro corpus"):
        read_metrics("corpus", tmp_path)
