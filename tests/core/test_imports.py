"""Importing needs no optional package, prints nothing and leaves the process as it is; programs set what they need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ssfer.core.process import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
OPTIONAL = ("dvc", "mlflow", "anny", "warp", "facenet_pytorch", "retinaface", "albumentations", "open_clip", "pytest")
CODE = f"""
import importlib, json, os, pkgutil, sys
import numpy, torch
from importlib.machinery import PathFinder
from PIL import Image
from ssfer.core.process import ENVIRONMENT

def state():
    generator = numpy.random.get_state()
    return [[os.environ.get(key) for key in ENVIRONMENT], generator[1].tolist(), torch.random.get_rng_state().tolist(),
            torch.get_num_threads(), torch.get_float32_matmul_precision(), Image.MAX_IMAGE_PIXELS]

def load(names):
    names = [name for name in names if not name.endswith("__main__")]
    before = state()
    for name in names:
        importlib.import_module(name)
    return len(names), [pair for pair in zip(before, state()) if pair[0] != pair[1]]

def below(package):
    package = importlib.import_module(package)
    names = [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    return [name for name in names if name != "stages.generate"]

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, path=None, target=None: (
    None if name.split(".")[0] in {OPTIONAL!r} else find(name, path, target))
found = {{"bare": load([*below("ssfer.stages"), "ssfer.config.profiles"]), "stages": load(below("stages"))}}
PathFinder.find_spec = find
found["all"] = load(below("ssfer"))
json.dump(found, sys.stdout)
"""


def run(code: str) -> str:
    """Return what a new process prints whose environment lacks what stages set."""
    bare = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT}
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=bare, capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (0, ""), answer.stderr[-2000:]
    return answer.stdout


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    """Return how many modules were imported, and what of the process changed, by kind."""
    found: dict[str, Any] = json.loads(run(CODE))
    return found


def test_stages_import_without_optional_packages(loaded: dict[str, Any]) -> None:
    """A training cluster needs neither DVC, MLflow, anny nor a detector; and no stage `generate`."""
    assert loaded["stages"][0] == 11


def test_importing_every_module_changes_no_global_state(loaded: dict[str, Any]) -> None:
    """Libraries set variables of their own; of those that stages need, and of generators and limits, none changes."""
    assert loaded["bare"][1] == loaded["all"][1] == [] and loaded["all"][0] > 100


def test_a_stage_sets_its_environment_before_torch() -> None:
    code = "import sys, os, stages; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    assert run(code) == "PASSIVE False\n"
