"""What all tests share: few threads, no MLflow, no network habits, and a small project to work in."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssfer.core.process import set_environment

# Before torch and MLflow are imported: CI machines are small, and a unit test must not write mlflow.db.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SSFER_MLFLOW", "0")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "1024")  # so that a test of `ssfer predict` does not lower it
set_environment()

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_finish() -> None:
    """Leave what imports made to no garbage collection: each training ends with one, which took half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_sync() -> Iterator[None]:
    """Files of tests need not survive a power cut; a write that waits for the disk takes milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project in a temporary folder, also the working directory: params.yaml, profiles/ and dvc.yaml.

    `project_root()` (scratch state, MLflow's runs) points there, too.
    """
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes fork from the server of `Launch`: a spawned one takes seconds to import everything."""
    from tests.support.launches import CONTEXT

    monkeypatch.setattr(multiprocessing, "get_context", lambda *_: CONTEXT)
