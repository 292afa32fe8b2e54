"""The command `ssfer app`: what keeps it from starting."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssfer.cli.main import app
from tests.support.small_model import write_model

pytest.importorskip("fastapi", reason="the extra 'app' is not installed")


def test_a_taken_port_and_weights_that_are_not_there_are_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        model = write_model(tmp_path / "small.safetensors")
        result = CliRunner().invoke(app, ["app", str(model), "--port", str(port), "--device", "cpu"])
    assert result.exit_code == 2 and f"port {port} of 127.0.0.1 cannot be used (" in result.stderr
    assert result.stderr.endswith("name another with --port\n") and result.stdout.startswith("model small: anger")
    result = CliRunner().invoke(app, ["app", str(tmp_path / "none.safetensors")])
    assert result.exit_code == 2 and "there are no weights at" in result.stderr
