"""ssfer.train.compute and the choices of ssfer.train.device: precision, compilation, what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ssfer.core.errors import SsferError
from ssfer.train import compute
from ssfer.train.compute import Compute, choose_compute, missing_for_compile
from ssfer.train.device import Machine
from ssfer.train.settings import MachineSettings


def chosen(**settings: Any) -> Compute:
    return choose_compute(MachineSettings(**settings))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch see a GPU with bf16, and everything that compiling needs."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(compute, "driver_version", lambda: "570.1")
    monkeypatch.setattr(compute, "missing_for_compile", lambda: None)


def test_a_cpu_is_said_with_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    found = chosen(device="cpu")
    assert str(found) == "CPU, float32, 2 threads"
    assert found.facts() == {"device": "CPU", "precision": "fp32", "eval_precision": "fp32", "compiled": False}
    assert str(chosen(device="cpu", eval_precision="tf32")) == "CPU, float32, 2 threads, evaluates in TF32"


@pytest.mark.usefixtures("gpu")
def test_a_gpu_is_said_with_precision_and_compilation() -> None:
    found = chosen(eval_precision="bf16")
    assert str(found) == "NVIDIA H200, bf16, compiled, evaluates in bf16"
    expected = {"device": "NVIDIA H200", "precision": "bf16", "eval_precision": "bf16", "compiled": True}
    assert found.facts() == {**expected, "driver": "570.1"}
    assert str(chosen(precision="fp32", compile=False)) == "NVIDIA H200, float32"


@pytest.mark.usefixtures("gpu")
def test_a_gpu_without_bf16_computes_in_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: including_emulation)
    assert chosen().precision == "fp16"
    with pytest.raises(SsferError, match="precision is bf16, which NVIDIA H200 has not; set it to auto or fp16"):
        chosen(precision="bf16")
    with pytest.raises(SsferError, match="eval_precision is bf16, which NVIDIA H200 has not; set it to fp32 or tf32"):
        chosen(eval_precision="bf16")


@pytest.mark.parametrize(("key", "value"), [("precision", "bf16"), ("precision", "fp16"), ("eval_precision", "bf16")])
def test_half_precision_on_a_plain_cpu_is_refused(key: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    with pytest.raises(SsferError, match=rf"machine\.{key} {value} needs CUDA"):
        chosen(device="cpu", **{key: value})


@pytest.mark.parametrize("unit", ["amx_bf16", "avx512_bf16"])
def test_a_cpu_with_units_for_bf16_computes_in_it_when_asked(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": False, "avx512_bf16": False, unit: True})
    assert chosen(device="cpu", precision="bf16").precision == "bf16"
    assert chosen(device="cpu").precision == "fp32"


@pytest.mark.usefixtures("gpu")
def test_without_a_compiler_auto_falls_back_with_a_line_and_true_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "missing_for_compile", lambda: "no C compiler is there (apt install gcc)")
    found = chosen()
    assert not found.compiled
    assert found.remarks == ("networks are not compiled, which is slower: no C compiler is there (apt install gcc)",)
    with pytest.raises(SsferError, match="machine.compile is true but no C compiler is there"):
        chosen(compile=True)


def test_what_compiling_needs_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cc").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert missing_for_compile() == "Python.h is not there (apt install python3-dev)"
    (tmp_path / "Python.h").touch()
    assert missing_for_compile() is None
    (tmp_path / "cc").unlink()
    monkeypatch.delenv("CC", raising=False)
    assert missing_for_compile() == "no C compiler is there (apt install gcc)"


def test_small_networks_are_compiled_only_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "missing_for_compile", lambda: None)
    small = nn.Linear(10, 10)
    assert not Machine(MachineSettings(device="cpu")).compiles(small)
    assert Machine(MachineSettings(device="cpu", compile=True)).compiles(small)
    machine = Machine(MachineSettings(device="cpu"))
    machine.compute = Compute(torch.device("cpu"), "fp32", compiled=True)
    assert not machine.compiles(small)
    assert machine.compiles(nn.Linear(1000, 1001))


def test_what_computes_is_said_once_with_what_the_user_should_know(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compute, "hidden_gpu", lambda device: "this machine has an NVIDIA GPU, but")
    machine = Machine(MachineSettings(device="cpu", threads=1))
    machine.announce("pretrain")
    machine.announce("pretrain")
    assert capsys.readouterr().err == "pretrain: CPU, float32, 1 thread\nWARNING: this machine has an NVIDIA GPU, but\n"
