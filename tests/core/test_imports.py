"""The package imports without its optional parts: a training cluster needs neither DVC, MLflow, anny nor a detector."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPTIONAL = ("dvc", "mlflow", "anny", "warp", "facenet_pytorch", "retinaface", "albumentations", "open_clip", "pytest")
CODE = f"""
import importlib, pkgutil
from importlib.machinery import PathFinder

find = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in {OPTIONAL!r} else find(name, path, target)

PathFinder.find_spec = find_spec
import stages
names = [m.name for m in pkgutil.iter_modules(stages.__path__, "stages.") if m.name != "stages.generate"]
for name in [*names, "ssfer.config.profiles"]:
    importlib.import_module(name)
print(len(names))
"""


def test_stages_import_without_optional_packages() -> None:
    """All but `generate`, which renders with anny and warp; `align` loads its detector when it starts to work."""
    answer = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert answer.stdout.split() == ["11"]
    assert answer.stderr == "", "importing prints nothing"
