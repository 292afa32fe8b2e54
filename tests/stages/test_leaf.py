"""LEAF through stage semisup, and in several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssfer.core.errors import SsferError
from ssfer.data.batches import StepBatches
from ssfer.data.dataset import FaceDataset
from ssfer.data.split import load_split
from ssfer.evaluation.inference import predict
from ssfer.methods.build import build_method
from ssfer.methods.leaf import LEAF
from ssfer.methods.registry import METHODS
from ssfer.methods.shared.labeled_thresholds import adaptive_thresholds
from ssfer.models.expert_head import expert_head
from ssfer.models.vit import build_classifier
from ssfer.stages import semisup
from ssfer.stages.common import load_classifier, save_classifier, seeded_classifier
from ssfer.stages.evaluate import run_evaluate
from ssfer.stages.labeled_pass import labeled_pass_batches
from ssfer.train.device import Machine
from tests.support import factory
from tests.support.launches import Launch
from tests.support.training import fit_method


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


def test_views_are_drawn_independently(finetuned: Path) -> None:
    split, p = load_split(), stage()
    labeled, unlabeled = (semisup.split_dataset(split, part, p) for part in ("labeled", "unlabeled"))
    method = semisup.build_method(seeded_classifier(p, 3, 0), p.semisup, p.methods)
    stream, _ = semisup.build_streams(method, labeled, unlabeled, p)
    assert list(stream.views) == ["w", "w2", "s"]
    batch = semisup.StepBatches([stream], 1)[0]
    assert not torch.equal(batch["x_ulb_w"], batch["x_ulb_w2"])
    method.views = ("w", "x")  # type: ignore[misc]
    with pytest.raises(SsferError, match=r"unknown view that method leaf needs 'x' \(known: s, w\)"):
        semisup.build_streams(method, labeled, unlabeled, p)


def test_beta2_reaches_the_optimizer(finetuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    fit = semisup.fit
    monkeypatch.setattr(semisup, "fit", lambda plan, *a: seen.append(plan.optimizer) or fit(plan, *a))
    for beta2 in (0.95, 0.999):
        params = stage()
        own = params.semisup.model_copy(update={"beta2": beta2, "epochs": 1})
        semisup.run_semisup(params.model_copy(update={"semisup": own}))
    assert [o.param_groups[0]["betas"] for o in seen] == [(0.9, 0.95), (0.9, 0.999)]


# --- in several processes ---


def train(root: Path) -> None:
    """Two epochs of two steps; experts that nobody chose must not keep the processes waiting for each other."""
    leaf = {"threshold": 0.3, "top_k": 1}
    p = factory.tiny_params(semisup={"method": "leaf"}, methods={"leaf": leaf})
    dataset = FaceDataset([root / "faces"], classes=factory.CLASSES, cache_gib=1)
    torch.manual_seed(0)
    method, machine = build_method(build_classifier(p.model, 3), p.semisup, p.methods), Machine(p.machine)
    streams = semisup.build_streams(method, dataset, dataset, p)
    labeled = labeled_pass_batches(method.labeled_pass_views, dataset, p, machine)
    batches = StepBatches(streams, 2, machine.rank, machine.world)
    fit_method(method, batches, p, root / "snapshots", labeled_batches=labeled)
    torch.save(method.state_dict(), root / f"{machine.rank}.pt")


def test_two_processes_agree(tmp_path: Path) -> None:
    factory.write_faces(tmp_path / "faces", "faces", [i % 3 for i in range(8)])
    two = Launch(tmp_path, train, tmp_path, world=2)
    assert two.wait() == [0, 0], two.errors(0) + two.errors(1)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(one[k], other[k]) for k in one)
