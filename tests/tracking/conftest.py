"""A project root with an MLflow database."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def empty_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project root with tracking allowed."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("SSFER_MLFLOW", "1")
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "RANK", "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What MLflow makes of a missing file, made once: creating it takes seconds."""
    path = tmp_path_factory.mktemp("fresh") / "mlflow.db"
    pytest.importorskip("mlflow").MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def root(empty_root: Path, fresh_database: Path) -> Path:
    """A project root whose database exists and is empty."""
    shutil.copy(fresh_database, empty_root / "mlflow.db")
    return empty_root
