"""Stages of a small project, run in this process or as DVC starts them."""

from __future__ import annotations

import runpy
import signal
from pathlib import Path

import pytest
import torch

from ssfer.config.schema import Params
from ssfer.core.files import read_json, write_json
from ssfer.core.process import StopRequest
from ssfer.formats.weights import load_weights
from ssfer.train.step import Step
from tests.support import factory


def make_project(root: Path, **sections: dict[str, object]) -> Params:
    """Write data and params.yaml of a small project into `root`."""
    root.mkdir()
    factory.write_project(root)
    params = factory.tiny_params(**sections)
    write_json(root / "params.yaml", params.model_dump(mode="json"))  # JSON is YAML, and written in no time
    return params


def run_here(root: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a stage to its end in this process: the imports, most of a tiny stage's time, are paid once."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_ROOT", str(root))
    runpy.run_module(f"stages.{stage}", run_name="__main__")


def stop_here(
    root: Path, stage: str, monkeypatch: pytest.MonkeyPatch, step: int = 9, number: int = signal.SIGTERM
) -> None:
    """Run a stage in this process that gets a signal when a step begins, and so ends with a snapshot of the next."""
    set_lr, before = Step.set_lr, [signal.getsignal(number) for number in StopRequest.SIGNALS]

    def signaled(self: Step, at: int) -> float:
        if at == step:
            signal.raise_signal(number)
        return set_lr(self, at)

    try:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(Step, "set_lr", signaled)
            run_here(root, stage, patch)
    finally:  # on the way out signals stay caught
        for caught, handler in zip(StopRequest.SIGNALS, before, strict=True):
            signal.signal(caught, handler)
    assert ended.value.code == 128 + number


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of all weights files in a folder."""
    return {f"{p.name}/{k}": v for p in sorted(folder.glob("*.safetensors")) for k, v in load_weights(p)[0].items()}


def change(root: Path, section: str, key: str, value: object) -> None:
    """Set one key of params.yaml."""
    raw = read_json(root / "params.yaml")
    raw[section][key] = value
    write_json(root / "params.yaml", raw)
