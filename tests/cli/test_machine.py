"""`ssfer doctor --machine`: what it says of this machine, and steps of every stage."""

import re
from pathlib import Path
from typing import Any

import pytest

from ssfer.cli import machine
from ssfer.train import compute, machine_facts
from ssfer.train.device import Machine
from tests.support.factory import tiny_params

NETWORK: dict[str, Any] = {"finetune": {"facemix": {"mode": "mixup"}}}


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "STEPS", 2)
    monkeypatch.setattr(machine_facts, "matmul_rate", lambda *_: 5e9)


def test_says_what_is_here_and_times_a_step_of_every_stage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_facts, "computes_bf16", lambda _: True)
    assert machine.show_machine(tiny_params(semisup={"method": "cgmatch"}, **NETWORK)) == 0
    out = capsys.readouterr().out
    assert re.search(r"^computes +CPU, float32, \d+ threads?$", out, re.M)
    assert re.search(r"^memory +[\d.]+ of [\d.]+ GiB available$", out, re.M)
    assert re.search(r"^matrix product +5 GFLOP/s in float32, 5 GFLOP/s in bfloat16$", out, re.M)
    speeds = dict(re.findall(r"^  (\S.*?) +([\d,]+) images/s$", out, re.M))
    assert list(speeds) == ["pretrain", "finetune", "semisup, cgmatch"]
    assert all(int(v.replace(",", "")) > 0 for v in speeds.values())


def test_a_gpu_that_torch_cannot_use_is_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "hidden_gpu", lambda _: "this machine has an NVIDIA GPU, but it is not used")
    assert machine.show_machine(tiny_params(**NETWORK)) == 1
    assert "WARNING: this machine has an NVIDIA GPU" in capsys.readouterr().out


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    found = dict(machine_facts.facts(Machine(tiny_params().machine)))
    assert found["compiler"].startswith("torch.compile cannot be used: no C compiler")
