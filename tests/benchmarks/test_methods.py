"""The benchmark of the methods' steps."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import method_setup, method_step
from benchmarks.method_setup import Setup, batch_for, build
from ssfer.core.errors import SsferError
from ssfer.core.pixels import normalize
from ssfer.data.batches import StepBatches
from ssfer.data.split import load_split
from ssfer.methods.registry import METHODS
from ssfer.models.ema import EMA
from ssfer.stages.common import split_dataset
from ssfer.stages.semisup import build_streams
from ssfer.train.device import Machine
from tests.support.factory import tiny_params, write_project
from tests.support.tiny_benchmarks import command

SETUP = Setup("tiny", (p := tiny_params()).model, p.semisup, p.methods, p.machine, labeled=4, unlabeled=6, seed=0)


def test_ratios_are_medians_of_the_rounds_own() -> None:
    step = method_step.Times(np.array([2.0, 9.0, 3.0]), np.array([1.0, 1.0, 1.0]))
    peer = method_step.Times(np.array([1.0, 9.0, 2.0]), np.array([2.0, 1.0, 0.5]))
    found = method_step.Compared(step, peer)
    assert (found.ratio, found.cpu_ratio) == (1.5, 1.0)


def test_steps_take_turns() -> None:
    order: list[str] = []
    steps = [lambda: order.append("step"), lambda: order.append("peer")]
    method_step.in_turns(steps, 2, Machine(SETUP.machine))
    assert order[-4:] == ["step", "peer", "peer", "step"]
    assert len(order) == 2 * (2 + method_step.WARM_UP)


def test_steps_leave_the_weights_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[EMA] = []
    update = EMA.update
    monkeypatch.setattr(EMA, "update", lambda self, module: moved.append(self) or update(self, module))
    method = build("ema_teacher", SETUP)
    before = {n: p.clone() for n, p in method.named_parameters()}
    step = method_step.step_of(method, batch_for(METHODS["ema_teacher"], SETUP), SETUP, Machine(SETUP.machine))
    step()
    step()
    # The average of equal weights is theirs, within rounding.
    assert all(torch.allclose(before[n], p, rtol=1e-5, atol=0) for n, p in method.named_parameters())
    assert moved == [method.teacher] * 2


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
    assert "\n| vat | " in out
    assert "\n| fixmatch | " in out
