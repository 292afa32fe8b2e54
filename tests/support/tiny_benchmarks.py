"""The benchmarks' commands at sizes that take no time, for tests."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import mae_setup
from benchmarks.mae_setup import Setup

TINY = ["--model", "tiny", "--size", "32", "--device", "cpu", "--threads", "1"]


def setup(*options: str) -> Setup:
    """Return what these options ask for, on top of TINY."""
    parser = argparse.ArgumentParser()
    mae_setup.add_options(parser, batch=4)
    return mae_setup.read_options(parser.parse_args([*TINY, *options]))


def command(module: Any, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    """Run `python -m benchmarks.<module>` in this process."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *options])
    module.main()


def as_main(name: str, *options: str) -> None:
    """Work of a `Launch`: what `python -m <name>` does."""
    sys.argv = [name, *options]
    importlib.import_module(name).main()


def let_python_fail(folder: Path, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    """Let processes that are started with sys.executable say something and fail."""
    script = folder / "python"
    script.write_text(f"#!/bin/sh\necho '{message}' >&2\nexit 2\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
