"""`import ssfer` and its modules leave the process as it is; programs set what they need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ssfer.core.process import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import os, sys, numpy, torch
from PIL import Image
from ssfer.core.process import ENVIRONMENT
def state():
    generator = numpy.random.get_state()
    return [[os.environ.get(key) for key in ENVIRONMENT], generator[1].tolist(), torch.random.get_rng_state().tolist(),
            torch.get_num_threads(), torch.get_float32_matmul_precision(), Image.MAX_IMAGE_PIXELS]
before = state()
import pkgutil, importlib, ssfer
for module in pkgutil.walk_packages(ssfer.__path__, "ssfer."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print([(a, b) for a, b in zip(before, state()) if a != b])
"""


def test_importing_every_module_changes_no_global_state() -> None:
    """Libraries set variables of their own; of those that stages need, and of generators and limits, none changes."""
    bare = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT}
    answer = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=bare, capture_output=True, text=True)
    assert (answer.stdout, answer.stderr) == ("[]\n", "")


def test_a_stage_sets_its_environment_before_torch() -> None:
    code = "import sys, os, stages; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    bare = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=bare, capture_output=True, text=True)
    assert answer.stdout == "PASSIVE False\n", answer.stderr
