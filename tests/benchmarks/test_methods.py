"""The benchmark of the methods' steps: its peer makes the method's passes, all of them and no others."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import method_setup, method_step
from benchmarks.method_setup import Setup, batch_for, build
from benchmarks.passes import Call, passes_only, record
from ssfer.core.errors import SsferError
from ssfer.core.pixels import normalize
from ssfer.data.batches import StepBatches
from ssfer.data.split import load_split
from ssfer.methods.base import Batch, Method
from ssfer.methods.fixmatch import FixMatch
from ssfer.methods.registry import METHODS
from ssfer.models.vit import Classifier
from ssfer.stages.common import split_dataset
from ssfer.stages.semisup import build_streams
from ssfer.train.device import Machine
from tests.support.factory import tiny_params, write_project
from tests.support.tiny_benchmarks import command

SETUP = Setup("tiny", (p := tiny_params()).model, p.semisup, p.methods, p.machine, labeled=4, unlabeled=6, seed=0)


def passes_of(method: Method, name: str) -> list[Call]:
    """Return the passes of one step; the method gets hooks."""
    step = method_step.training_step(method, batch_for(METHODS[name], SETUP), SETUP, Machine(SETUP.machine))
    return record(method, step)


def told(call: Call) -> tuple[Any, ...]:
    """Return all that is known of a pass but values."""
    inputs = [(tuple(x.shape), x.dtype, x.requires_grad) for x in call.inputs]
    names = sorted(k for k, v in call.kwargs.items() if not isinstance(v, Tensor))
    modes = call.grad, call.training, call.autocast
    return call.path, inputs, names, modes, dict(call.inner), call.outer


@pytest.mark.parametrize("name", sorted(METHODS))
def test_peer_makes_the_same_passes(name: str) -> None:
    method = build(name, SETUP)
    calls = passes_of(copy.deepcopy(method), name)
    peer = passes_only(method, calls)
    assert [told(c) for c in passes_of(copy.deepcopy(peer), name)] == [told(c) for c in calls]
    again = [x for c in passes_of(copy.deepcopy(peer), name) for x in c.inputs]
    assert all(torch.equal(a, b) for a, b in zip(again, [x for c in calls for x in c.inputs], strict=True))
    assert any(c.images and c.outer for c in calls)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_peer_leaves_gradients_where_the_method_does(name: str) -> None:
    method, batch = build(name, SETUP).train(), batch_for(METHODS[name], SETUP)
    peer = passes_only(method, passes_of(copy.deepcopy(method), name))
    state = {k: v.clone() for k, v in peer.state_dict().items()}
    for one in (method, peer):
        one(batch)["loss"].backward()
    found = [{n for n, p in one.named_parameters() if p.grad is not None} for one in (method, peer)]
    assert found[0] == found[1] and found[0]
    peer.after_step(0)
    # Batch statistics, where a method has some, are a part of the pass.
    assert all(torch.equal(state[k], v) for k, v in peer.state_dict().items() if "running_" not in k)


def brief(name: str) -> list[tuple[str, int, bool, int, bool]]:
    """Return path, images, gradients on, inner and outer backward pass of a method's calls."""
    calls = passes_of(build(name, SETUP), name)
    return [(c.path, c.images, c.grad, c.inner_passes, bool(c.outer)) for c in calls]


def test_passes_are_those_of_the_papers() -> None:
    assert brief("fixmatch") == [("student", 6, False, 0, False), ("student", 10, True, 0, True)]
    # The average switches gradients off by itself.
    assert brief("ema_teacher") == [("teacher", 6, True, 0, False), ("student", 10, True, 0, True)]
    search = ("student", 10, True, 1, False)  # of the direction: its gradient is taken at once, to the images alone
    assert brief("vat") == [("student", 10, True, 0, True), search, ("student", 10, True, 0, True)]
    weak = [("student", 6, False, 0, False), ("projection", 0, False, 0, False)]
    assert brief("comatch") == [("student", 16, True, 0, True), ("projection", 0, True, 0, True), *weak]


def test_modes_and_keywords_are_taken_down() -> None:
    first, head, *_ = passes_of(build("ccssl", SETUP), "ccssl")[1:]
    assert first.kwargs == {"full": True} and first.outer == {0, 1}  # logits and features, not the balance loss
    assert first.training and not first.autocast
    assert [x.requires_grad for x in head.inputs] == [True]


class Restless(FixMatch):
    """Takes the gradient to its weights while it computes the loss."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        loss = self.student(batch["x_lb"]).sum()
        torch.autograd.grad(loss, list(self.student.parameters()))
        return super().forward(batch)


def test_gradient_to_weights_within_the_loss_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS._loaded, "fixmatch", Restless)
    with pytest.raises(SsferError, match="Restless takes a gradient to weights of 'student' within its forward pass"):
        passes_of(build("fixmatch", SETUP), "fixmatch")


class Slow(FixMatch):
    """Works for a second of the clock in its loss and for half a second after the step."""

    now = 0.0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        Slow.now += 1
        return super().forward(batch)

    def after_step(self, step: int) -> None:
        Slow.now += 0.5
        super().after_step(step)


@pytest.mark.parametrize(("method", "ratio"), [(FixMatch, 1.0), (Slow, 3.5 / 2)])
def test_ratio_is_the_methods_own_work(method: type[Method], ratio: float, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Classifier.forward

    def forward(self: Classifier, *args: Any, **kwargs: Any) -> Any:
        Slow.now += 1  # a pass takes a second
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Classifier, "forward", forward)
    monkeypatch.setattr(method_step.time, "perf_counter", lambda: Slow.now)
    monkeypatch.setattr(method_step.time, "process_time", lambda: 2 * Slow.now)
    monkeypatch.setitem(METHODS._loaded, "fixmatch", method)
    found = method_step.compare("fixmatch", SETUP, rounds=3)
    assert found.passes.clock.tolist() == [2.0] * 3
    assert found.step.cpu.tolist() == [4.0 * ratio] * 3
    assert found.ratio == found.cpu_ratio == ratio
    milliseconds = f"{2000 * ratio:.1f}", "2000.0"
    assert method_step.row("m", found, 10) == [
        "m", "16", "10", *milliseconds, f"{ratio:.3f}", f"{ratio:.3f}", f"{5 / ratio:.1f}"
    ]  # fmt: skip


def test_ratios_are_medians_of_the_rounds_own() -> None:
    step = method_step.Times(np.array([2.0, 9.0, 3.0]), np.array([1.0, 1.0, 1.0]))
    passes = method_step.Times(np.array([1.0, 9.0, 2.0]), np.array([2.0, 1.0, 0.5]))
    found = method_step.Compared([], step, passes)
    assert (found.ratio, found.cpu_ratio) == (1.5, 1.0)


def test_steps_take_turns() -> None:
    order: list[str] = []
    steps = [lambda: order.append("step"), lambda: order.append("passes")]
    method_step.in_turns(steps, 2, Machine(SETUP.machine))
    assert order[-4:] == ["step", "passes", "passes", "step"]
    assert len(order) == 2 * (2 + method_step.WARM_UP)


def test_steps_leave_the_weights_where_they_are() -> None:
    method = build("ema_teacher", SETUP)
    before = {n: p.clone() for n, p in method.named_parameters()}
    step = method_step.training_step(method, batch_for(METHODS["ema_teacher"], SETUP), SETUP, Machine(SETUP.machine))
    step()
    step()
    # The average of equal weights is theirs, within rounding.
    assert all(torch.allclose(before[n], p, rtol=1e-5, atol=0) for n, p in method.named_parameters())
    assert method.get_buffer("teacher.num_updates") == 2


def test_batch_has_what_the_training_loop_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = write_project(tmp_path)
    labeled, unlabeled = (split_dataset(load_split(), part, params) for part in ("labeled", "unlabeled"))
    loaded = StepBatches(build_streams(METHODS["ada_cm"], labeled, unlabeled, params), 1)[0]
    model = params.model
    real = {k: normalize(v, model.mean, model.std) if k.startswith("x_") else v for k, v in loaded.items()}
    made = batch_for(METHODS["ada_cm"], SETUP)
    assert made.keys() == real.keys()
    for key, value in real.items():
        assert (made[key].dtype, made[key].shape[1:]) == (value.dtype, value.shape[1:]), key
        assert made[key].stride() == value.stride(), key
    assert len(set(made["idx_ulb"].tolist())) == SETUP.unlabeled


def options(*given: str) -> Setup:
    """Return what these options ask for."""
    parser = argparse.ArgumentParser()
    method_setup.add_options(parser)
    return method_setup.read_options(parser.parse_args(given))


def test_options_choose_the_network() -> None:
    demo = options()
    assert (demo.model.img_size, demo.model.patch_size, demo.labeled, demo.unlabeled) == (32, 4, 64, 64)
    small = options("--model", "small", "--size", "112", "--labeled", "3")
    assert (small.model.img_size, small.model.patch_size, small.model.embed_dim) == (112, 16, 384)
    assert (small.labeled, small.unlabeled) == (3, 3)
    assert small.name == "ViT-small/16 at 112 px"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["fixmach"], r"unknown method 'fixmach'; did you mean 'fixmatch'\? \(known: ada_cm, ccssl, .*, vat\)"),
        (["--size", "30"], "expected a --size of several patches of 4 pixels, found 30"),
        (["--size", "-4"], "of several patches of 4 pixels, found -4"),
        (["--unlabeled", "0"], "expected --unlabeled of at least 1, found 0"),
        (["--rounds", "0"], "expected --rounds of at least 1, found 0"),
    ],
)
def test_impossible_options_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(SsferError, match=message):
        options(*given)


def test_command_prints_a_line_per_method(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--labeled", "2", "--unlabeled", "3", "--rounds", "1"]
    command(method_step, monkeypatch, "vat", "fixmatch", *few)
    out = capsys.readouterr().out
    assert "ViT-demo/4 at 32 px, 2 + 3 images a step, 1 rounds" in out
    assert "\n| vat | 15 | 15 | " in out
    assert "\n| fixmatch | 8 | 5 | " in out
    assert "The aim, by CPU time at most 1.1 times the passes, is " in out
