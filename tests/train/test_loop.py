"""The loop: resumption, determinism, selection of the best state, errors."""

from __future__ import annotations

import gc
import json
import multiprocessing
import weakref
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.data.augmentations.strong import Strong
from ssfer.data.augmentations.weak import Weak
from ssfer.data.batches import StepBatches, Stream
from ssfer.data.dataset import FaceDataset
from ssfer.methods.base import Method
from ssfer.methods.build import build_method
from ssfer.methods.facemix import FaceMix
from ssfer.methods.mae import MAE
from ssfer.models.vit import build_classifier, build_mae
from ssfer.stages.labeled_pass import labeled_pass_batches
from ssfer.train.device import Machine
from ssfer.train.metrics_history import Meter, Progression
from tests.support import factory, small_resnet
from tests.support.training import fit_method

GOLDEN = Path(__file__).parents[1] / "support" / "golden" / "trajectories.json"


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceDataset:
    folder = tmp_path_factory.mktemp("faces")
    factory.write_faces(folder, "faces", [i % 3 for i in range(24)])
    return FaceDataset([folder], classes=factory.CLASSES, cache_gib=1)


def params(**machine: Any) -> Params:
    # A low threshold, so that pseudo-labels take part from the first step.
    low = {name: {"threshold": 0.3} for name in ("ema_teacher", "leaf")}
    return factory.tiny_params(machine={"checkpoint_minutes": 1e-9, **machine}, methods=low)


def make(name: str, faces: FaceDataset, p: Params) -> tuple[Method, StepBatches]:
    """Return a small method of one of the three kinds and its batches (3 steps an epoch)."""
    torch.manual_seed(0)
    weak = Weak(p.model.img_size, 0.5)
    if name == "mae":
        method: Method = MAE(build_mae(p.model, p.pretrain), 0.75)
        streams = [Stream("ulb", faces, 8, {"w": weak}, 1)]
    elif name == "facemix":
        method = FaceMix(build_classifier(p.model, 3), p.finetune.facemix, p.model)
        streams = [Stream("lb", faces, 8, {"": weak}, 1)]
    else:
        method = build_method(build_classifier(p.model, 3), p.semisup.model_copy(update={"method": name}), p.methods)
        strong = Strong(p.model.img_size, 0.5, "rand-m9-mstd0.5-inc1", p.model.mean)
        views = {view: strong if view.startswith("s") else weak for view in method.views}
        streams = [Stream("ulb", faces, 8, views, 1), Stream("lb", faces, 4, {"": weak}, 2)]
    return method, StepBatches(streams, 2)


def train(name: str, faces: FaceDataset, p: Params, folder: Path, **more: Any) -> tuple[Method, Progression]:
    method, batches = make(name, faces, p)
    labeled = labeled_pass_batches(method.labeled_pass_views, faces, p, Machine(p.machine))
    lr_at = lambda epoch: 1e-3 / (1 + epoch)  # noqa: E731
    return method, fit_method(method, batches, p, folder, lr_at=lr_at, labeled_batches=labeled, **more)


class Interrupt(Exception):
    """Stands for a power cut in the middle of a run."""


@pytest.mark.parametrize("name", ["mae", "facemix", "ema_teacher", "leaf", "meta_face2exp"])
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


@pytest.mark.parametrize("place", [(StepBatches, "_batch"), (torch.optim.AdamW, "step")])
def test_workers_end_after_any_error(
    place: tuple[type, str], faces: FaceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the traceback of an error kept would let Python wait for them forever, as they ignore SIGTERM."""

    def fail(*_: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(*place, fail)
    with pytest.raises(ValueError, match="a bug") as kept:
        train("mae", faces, params(num_workers=2), tmp_path)
    assert kept.tb is not None and not multiprocessing.active_children()


@pytest.mark.slow  # each worker imports torch
@pytest.mark.parametrize("start", ["forkserver", "spawn"])
def test_however_workers_start_the_weights_are_the_same(start: str, faces: FaceDataset, tmp_path: Path) -> None:
    here, _ = train("ema_teacher", faces, params(), tmp_path / "here")
    there, _ = train("ema_teacher", faces, params(num_workers=1, start_method=start), tmp_path / "there")
    assert all(torch.equal(a, b) for a, b in zip(here.state_dict().values(), there.state_dict().values(), strict=True))


def test_a_trained_network_is_released_with_its_last_user(faces: FaceDataset, tmp_path: Path) -> None:
    """A search trains many in one process, with one machine."""
    machine = Machine(params().machine)
    method, batches = make("ema_teacher", faces, params())
    fit_method(method, batches, params(), tmp_path, machine=machine)
    network = weakref.ref(method.student)
    del method
    gc.collect()
    assert network() is None


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
    return fit_method(method, batches, p, folder, weight_decay=0.0, **more)


def test_non_finite_loss_stops_with_step_and_rate(faces: FaceDataset, tmp_path: Path) -> None:
    with pytest.raises(SsferError, match=r"loss became nan at step 3 with learning rate 0\.001; last snapshot: none"):
        scripted_fit(Scripted([1.0, 1.0, 1.0, float("nan"), 1.0, 1.0]), faces, tmp_path)
    with pytest.raises(SsferError, match="at step 0 .*No step was taken before, so look at the weights"):
        scripted_fit(Scripted([float("nan")] * 6), faces, tmp_path / "first")
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        ([(0.5, 1.0), (0.75, 0.9), (0.75, 0.8)], 3),  # a tie goes to the lower loss,
        ([(0.75, 0.9), (0.75, 0.9), (0.5, 0.1)], 1),  # then to the earlier epoch
    ],
)
def test_best_state_is_that_of_the_highest_validation_accuracy(
    faces: FaceDataset, tmp_path: Path, figures: list[tuple[float, float]], best: int
) -> None:
    script = iter(figures)
    weights = []

    def evaluate(method: Method) -> dict[str, float]:
        with torch.no_grad():
            method.student.weight += 1
        weights.append(method.student.weight.detach().clone())
        accuracy, loss = next(script)
        return {"val_accuracy": accuracy, "val_loss": loss}

    run = scripted_fit(Scripted([1.0] * 6), faces, tmp_path, evaluate=evaluate)
    assert run.best is not None
    assert run.best["epoch"] == best
    assert torch.equal(run.best["state"]["student.weight"], weights[best - 1])


class Constant(Method):
    """Gradient one for every weight, so that AdamW moves each by its learning rate; `slow` has a rate of its own."""

    lr_scales = MappingProxyType({"student.slow": 0.125})

    def __init__(self) -> None:
        super().__init__(nn.ModuleDict({"slow": nn.Linear(1, 1), "fast": nn.Linear(1, 1)}))

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return {"loss": torch.stack([p.sum() for p in self.parameters()]).sum()}


def test_the_learning_rate_of_each_step_and_its_scales_reach_the_weights(faces: FaceDataset, tmp_path: Path) -> None:
    method = Constant()
    before = {name: value.item() for name, value in method.named_parameters()}
    lr_at = lambda epoch: 0.01 * (1 + epoch)  # noqa: E731  # two steps an epoch: 0.01, 0.015, ...
    scripted_fit(method, faces, tmp_path, lr_at=lr_at)
    moved = {name: before[name] - value.item() for name, value in method.named_parameters()}
    total = sum(lr_at(step / 2) for step in range(6))
    for name, distance in moved.items():
        assert distance == pytest.approx(total * (0.125 if "slow" in name else 1.0), rel=1e-3)


class Linear(Method):
    """Its loss is the mean image, so its gradient is what the parts of a batch have to average to."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1))
        self.gradients: list[float] = []
        self.student.weight.register_post_accumulate_grad_hook(lambda p: self.gradients.append(p.grad.item()))

    def forward(self, batch: Any) -> dict[str, Tensor]:
        loss = (batch["x_lb"].mean() + 1) * self.student.weight.sum() + 0 * self.student.bias.sum()
        return {"loss": loss, "images_count": torch.tensor(len(batch["x_lb"]))}


def test_gradients_and_figures_of_parts_are_those_of_the_batch(faces: FaceDataset, tmp_path: Path) -> None:
    batches = StepBatches([Stream("lb", faces, 12, {"": Weak(16, 0.5)}, 1)], 1)
    runs = {}
    for parts in (1, 3):
        method, p = Linear(), params(max_batch=12 // parts)
        with torch.no_grad():
            method.student.weight.fill_(1.0)
        run = fit_method(method, batches, p, tmp_path / str(parts), lr_at=lambda epoch: 1e-9)
        runs[parts] = method.gradients[parts - 1 :: parts], run.history[0]
    assert runs[3][0] == pytest.approx(runs[1][0], rel=1e-5)
    assert runs[3][1] == pytest.approx(runs[1][1], rel=1e-5)
    assert runs[3][1]["images_count"] == 24


def test_history_averages_steps_and_sums_counts() -> None:
    meter = Meter()
    meter.update({"loss": torch.tensor(1.0), "kept_count": torch.tensor([1, 0])})
    meter.update({"loss": torch.tensor(2.0), "kept_count": torch.tensor([2, 5])})
    assert meter.result() == {"loss": 1.5, "kept_count": [3, 5]}


def test_channels_last_trains_the_same_network_within_rounding(faces: FaceDataset, tmp_path: Path) -> None:
    def trained(folder: str, channels_last: bool) -> tuple[Method, Progression]:
        torch.manual_seed(0)
        network = small_resnet.ssfer_small_resnet(num_classes=3)
        method = FaceMix(network, params().finetune.facemix, params().model)
        batches = StepBatches([Stream("lb", faces, 8, {"": Weak(16, 0.5)}, 1)], 2)
        run = fit_method(method, batches, params(channels_last=channels_last), tmp_path / folder)
        return method, run

    (plain, run), (inner, run_inner) = trained("plain", False), trained("inner", True)
    assert inner.student.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert plain.student.layer1[0].conv1.weight.is_contiguous()
    losses, losses_inner = ([row["loss"] for row in found.history] for found in (run, run_inner))
    np.testing.assert_allclose(losses_inner, losses, rtol=2e-3)  # Adam makes steps of rounding
