"""Times of a build's stages from MLflow, which decide nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssfer.tracking.durations import build_seconds
from tests.support import factory


@pytest.mark.parametrize("content", [b"no database", b""])
def test_a_damaged_store_is_said_and_gives_no_times(
    project: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    Path("mlflow.db").write_bytes(content)
    assert build_seconds(factory.tiny_params()) is None
    assert capsys.readouterr().err.startswith("tracking: no times are shown (") or not content
