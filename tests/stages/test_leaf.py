"""LEAF through stage semisup, and in several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssfer.data.split import load_split
from ssfer.evaluation.inference import predict
from ssfer.methods.leaf import LEAF
from ssfer.methods.registry import METHODS
from ssfer.methods.shared.labeled_thresholds import adaptive_thresholds
from ssfer.models.expert_head import expert_head
from ssfer.stages import semisup
from ssfer.stages.common import load_classifier, save_classifier, seeded_classifier
from ssfer.stages.evaluate import run_evaluate
from ssfer.train.device import Machine
from tests.support import factory


@pytest.fixture
def finetuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    factory.write_project(tmp_path)
    network = seeded_classifier(stage(), 3, 0)
    path = Path("data/weights/finetune/facemix_last.safetensors")
    save_classifier(path, network.state_dict(), stage(), load_split())
    return tmp_path


def stage(method: str = "leaf", **leaf: Any) -> Any:
    own = {"threshold": 0.3, "ema_decay": 0.5} | leaf
    raw = {"method": method, "lr": 0.01, "leaf_parts": {"expert_head": method != "leaf"}}
    methods = {"leaf": own} if method == "leaf" else {method: {"threshold": 0.3}, "leaf": own}
    return factory.tiny_params(semisup=raw, methods=methods, finetune={"baselines": []})


@pytest.mark.parametrize("method", ["leaf", "fixmatch"])
def test_exported_weights_know_their_experts(finetuned: Path, method: str) -> None:
    result = semisup.run_semisup(stage(method))
    assert result is not None and result["epochs"] == 2
    own = METHODS[method].evaluated
    weights = Path(f"data/weights/semisup/{own}_last.safetensors")
    # Read with settings that say nothing of experts: the file does.
    model = load_classifier(weights, stage("leaf", experts=7), load_split())
    head = expert_head(model)
    assert head is not None and len(head.semantic.experts) == 4
    tested = run_evaluate(stage(method))
    assert tested["headline_model"] == f"{own}_last" and "facemix" in tested["models"]


def test_thresholds_of_the_run_are_those_of_its_last_epoch(finetuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, Tensor, Tensor]] = []
    raise_thresholds = LEAF.raise_thresholds

    def spy(self: LEAF, epoch: int, probs: Tensor, labels: Tensor) -> None:
        told.append((epoch, probs, labels))
        raise_thresholds(self, epoch, probs, labels)
        assert_close(self.thresholds.double(), adaptive_thresholds(probs, labels, epoch, 3, 0.3))

    monkeypatch.setattr(LEAF, "raise_thresholds", spy)
    semisup.run_semisup(stage())
    assert [epoch for epoch, _, _ in told] == [1, 2]
    assert all(len(labels) == 18 for _, _, labels in told)
    weights = Path("data/weights/semisup/teacher_last.safetensors")
    labeled = semisup.split_dataset(load_split(), "labeled", stage())
    probs = predict(
        load_classifier(weights, stage(), load_split()), labeled, machine=Machine(stage().machine), model=stage().model
    )
    assert_close(torch.from_numpy(probs), told[-1][1])
