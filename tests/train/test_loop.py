"""The loop: resumption, determinism, selection of the best state, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.data.batches import StepBatches, Stream
from ssfer.data.dataset import FaceDataset
from ssfer.data.transforms import Strong, Weak
from ssfer.evaluation.inference import predict
from ssfer.methods.base import Method
from ssfer.methods.build import build_method
from ssfer.methods.facemix import FaceMix
from ssfer.methods.mae import MAE
from ssfer.models.vit import build_classifier, build_mae
from ssfer.stages.labeled_pass import labeled_pass_batches
from ssfer.train.checkpoints import Checkpoints
from ssfer.train.device import Machine
from ssfer.train.history import Meter, Progression
from ssfer.train.loop import Schedule, fit
from ssfer.train.optim import adamw, param_groups
from tests.support import factory

GOLDEN = Path(__file__).parents[1] / "support" / "golden" / "trajectories.json"


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceDataset:
    folder = tmp_path_factory.mktemp("faces")
    factory.write_faces(folder, "faces", [i % 3 for i in range(24)])
    return FaceDataset([folder], classes=factory.CLASSES, cache_gib=1)


def params(**machine: Any) -> Params:
    # A low threshold, so that pseudo-labels take part from the first step.
    low = {name: {"threshold": 0.3} for name in ("ema_teacher", "leaf")}
    return factory.tiny_params(machine={"checkpoint_minutes": 1e-9, **machine}, semisup=low)


def make(
    name: str, faces: FaceDataset, p: Params, epochs: int = 2
) -> tuple[Method, torch.optim.Optimizer, StepBatches]:
    """Return a small method of one of the three kinds with its optimizer and batches (3 steps an epoch)."""
    torch.manual_seed(0)
    weak = Weak(p.model.img_size, 0.5)
    if name == "mae":
        method: Method = MAE(build_mae(p.model, p.pretrain), 0.75)
        streams = [Stream("ulb", faces, 8, {"w": weak}, 1)]
    elif name == "facemix":
        method = FaceMix(build_classifier(p.model, 3), p.finetune.facemix, p.model)
        streams = [Stream("lb", faces, 8, {"": weak}, 1)]
    else:
        method = build_method(build_classifier(p.model, 3), p.semisup.model_copy(update={"method": name}))
        strong = Strong(p.model.img_size, 0.5, "rand-m9-mstd0.5-inc1", p.model.mean)
        views = {view: strong if view.startswith("s") else weak for view in method.views}
        streams = [Stream("ulb", faces, 8, views, 1), Stream("lb", faces, 4, {"": weak}, 2)]
    return method, adamw(param_groups(method, 0.05), 1e-3), StepBatches(streams, 2)


def train(name: str, faces: FaceDataset, p: Params, folder: Path, **more: Any) -> tuple[Method, Progression]:
    method, optimizer, batches = make(name, faces, p)
    run = fit(
        method,
        optimizer,
        batches,
        Schedule(lambda epoch: 1e-3 / (1 + epoch)),
        machine=Machine(p.machine),
        model=p.model,
        seed=7,
        checkpoints=Checkpoints(folder),
        label=name,
        labeled=labeled_pass_batches(method.labeled_pass_views, faces, p, Machine(p.machine)),
        **more,
    )
    return method, run


class Interrupt(Exception):
    """Stands for a power cut in the middle of a run."""


@pytest.mark.parametrize("name", ["mae", "facemix", "ema_teacher", "leaf"])
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_interrupted_run_ends_with_the_same_bits(
    name: str, stop: int, faces: FaceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = train(name, faces, params(), tmp_path / "whole")
    step = torch.optim.AdamW.step
    calls = {"n": 0}

    def cut(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        calls["n"] += 1
        if calls["n"] == stop + 1:
            raise Interrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", cut)
    with pytest.raises(Interrupt):
        train(name, faces, params(), tmp_path / "cut")
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    again, run_again = train(name, faces, params(), tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    assert run_again.history == run.history  # also the epoch that the cut went through
    assert run.step == 6


def test_loader_workers_change_nothing(faces: FaceDataset, tmp_path: Path) -> None:
    here, _ = train("ema_teacher", faces, params(), tmp_path / "here")
    there, _ = train("ema_teacher", faces, params(num_workers=2), tmp_path / "there")
    assert all(torch.equal(a, b) for a, b in zip(here.state_dict().values(), there.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["mae", "facemix", "ema_teacher"])
def test_golden_trajectory(name: str, faces: FaceDataset, tmp_path: Path) -> None:
    """Losses of the two epochs, recorded once; a change of any formula or draw moves them."""
    _, run = train(name, faces, params(), tmp_path)
    expected = json.loads(GOLDEN.read_text())[name]
    np.testing.assert_allclose([row["loss"] for row in run.history], expected, rtol=1e-4)


class Scripted(Method):
    """Parameter whose loss is scripted, and an evaluation that follows a script, too."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__(nn.Linear(1, 1))
        self.losses, self.calls = losses, 0

    def forward(self, batch: Any) -> dict[str, Tensor]:
        self.calls += 1
        return {"loss": self.student.weight.sum() * 0 + self.losses[self.calls - 1]}


def scripted_fit(method: Method, faces: FaceDataset, folder: Path, **more: Any) -> Progression:
    p = params(checkpoint_minutes=100.0)
    batches = StepBatches([Stream("lb", faces, 12, {"": Weak(16, 0.5)}, 1)], 3)
    return fit(
        method,
        adamw(param_groups(method, 0.0), 1e-3),
        batches,
        Schedule(lambda epoch: 1e-3),
        machine=Machine(p.machine),
        model=p.model,
        seed=1,
        checkpoints=Checkpoints(folder),
        label="scripted",
        **more,
    )


def test_non_finite_loss_stops_with_step_and_rate(faces: FaceDataset, tmp_path: Path) -> None:
    with pytest.raises(SsferError, match=r"loss became nan at step 3 with learning rate 0\.001; last snapshot: none"):
        scripted_fit(Scripted([1.0, 1.0, 1.0, float("nan"), 1.0, 1.0]), faces, tmp_path)
    assert not list(tmp_path.glob("*.pt"))


def test_best_state_is_that_of_the_highest_validation_accuracy(faces: FaceDataset, tmp_path: Path) -> None:
    script = iter([(0.5, 1.0), (0.75, 0.9), (0.75, 0.8)])
    weights = []

    def evaluate(method: Method) -> dict[str, float]:
        with torch.no_grad():
            method.student.weight += 1
        weights.append(method.student.weight.detach().clone())
        accuracy, loss = next(script)
        return {"val_accuracy": accuracy, "val_loss": loss}

    run = scripted_fit(Scripted([1.0] * 6), faces, tmp_path, evaluate=evaluate)
    assert run.best is not None
    assert run.best["epoch"] == 3  # the tie goes to the lower loss
    assert torch.equal(run.best["state"]["student.weight"], weights[2])


def test_history_averages_steps_and_sums_counts() -> None:
    meter = Meter()
    meter.update({"loss": torch.tensor(1.0), "kept_count": torch.tensor([1, 0])})
    meter.update({"loss": torch.tensor(2.0), "kept_count": torch.tensor([2, 5])})
    assert meter.result() == {"loss": 1.5, "kept_count": [3, 5]}


def test_prediction_does_not_depend_on_batch_size_or_order(faces: FaceDataset, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = build_classifier(params().model, 3).train()
    nn.init.normal_(model.head.weight, std=0.1)
    small, large = (
        predict(model, faces, machine=Machine(params(eval_batch_size=n).machine), model=params().model) for n in (5, 64)
    )
    np.testing.assert_allclose(small, large, rtol=1e-5)
    np.testing.assert_allclose(small.sum(axis=1), 1, rtol=1e-6)
    assert small.std(axis=0).max() > 1e-3  # the images do differ
    assert model.training


def test_bf16_on_a_cpu_is_refused() -> None:
    with pytest.raises(SsferError, match="bf16 needs CUDA"):
        Machine(params(precision="bf16").machine)
