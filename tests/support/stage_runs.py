"""Stages of a small project, run in this process or as DVC starts them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from ssfer.config.schema import Params
from ssfer.formats.weights import load_weights
from tests.support import factory


def make_project(root: Path, **sections: dict[str, object]) -> Params:
    """Write data and params.yaml of a small project into `root`."""
    root.mkdir()
    factory.write_project(root)
    params = factory.tiny_params(**sections)
    with open(root / "params.yaml", "w") as file:
        YAML().dump(params.model_dump(mode="json"), file)
    return params


def run_here(root: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a stage to its end in this process: the imports, most of a tiny stage's time, are paid once."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_ROOT", str(root))
    runpy.run_module(f"stages.{stage}", run_name="__main__")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of all weights files in a folder."""
    return {f"{p.name}/{k}": v for p in sorted(folder.glob("*.safetensors")) for k, v in load_weights(p)[0].items()}


def change(root: Path, section: str, key: str, value: object) -> None:
    """Set one key of params.yaml."""
    yaml = YAML()
    raw = yaml.load((root / "params.yaml").read_text())
    raw[section][key] = value
    with open(root / "params.yaml", "w") as file:
        yaml.dump(raw, file)
