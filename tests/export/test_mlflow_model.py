"""A model that MLflow's own server serves."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pandas as pd
import pytest

from tests.support.exports import exportable
from tests.support.rendered_photos import bright_photo, render_once

mlflow = pytest.importorskip("mlflow")

from ssfer.export.mlflow_model import mlflow_model  # noqa: E402
from ssfer.predict.recognizer import load  # noqa: E402

RECIPE = "mtcnn-similarity5-v2-24"


def picture() -> bytes:
    buffer = io.BytesIO()
    bright_photo((10, 10, 60, 60)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow")
    mlflow_model(exportable(folder, crop_recipe=RECIPE), folder / "model")
    return folder / "model"


def test_the_model_has_a_signature_and_holds_nothing_pickled(model: Path) -> None:
    info = mlflow.models.get_model_info(str(model))
    assert [(c.name, str(c.type)) for c in info.signature.inputs.inputs] == [("image", "DataType.binary")]
    assert {"status", "expression", "confidence", "p_anger", "x1"} <= set(info.signature.outputs.input_names())
    assert info.metadata["ssfer"]["classes"] == ["anger", "happiness", "surprise"]
    assert not [path for path in model.rglob("*") if path.suffix in (".pkl", ".pth", ".pt", ".pyc")]
    text = (model / "MLmodel").read_text() + (model / "requirements.txt").read_text()
    assert str(Path.cwd()) not in text and str(model.parent) not in text


def test_a_photo_gives_rows(model: Path) -> None:
    rows = mlflow.pyfunc.load_model(str(model)).predict(pd.DataFrame({"image": [picture(), b"no picture"]}))
    assert rows[1] == {"input": "1", "frame": None, "time": None, "status": "unreadable"}
    expected = load(next(model.rglob("*.safetensors")), device="cpu").predict(bright_photo((10, 10, 60, 60)))
    assert [row["status"] for row in rows[:1]] == expected["status"].tolist()


@pytest.mark.slow
def test_mlflow_serves_it(model: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`mlflow models serve` on 127.0.0.1, asked over HTTP, from a folder without ssfer."""
    photo = tmp_path / "photo"
    with tarfile.open(next((render_once(tmp_path_factory) / "expressions").glob("*.tar"))) as shard:
        photo.write_bytes(shard.extractfile(shard.getnames()[0]).read())  # type: ignore[union-attr]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["mlflow", "models", "serve", "-m", str(model), "--env-manager", "local", "-h", "127.0.0.1"]
    with open(tmp_path / "log", "w") as log:
        environment = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
        server = subprocess.Popen([*command, "-p", str(port)], cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):  # a busy machine takes minutes to start it
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                with urllib.request.urlopen(f"{address}/ping", timeout=5):
                    break
            except OSError:
                time.sleep(1)
        records = [{"image": base64.b64encode(data).decode()} for data in (photo.read_bytes(), b"no picture")]
        body = json.dumps({"dataframe_records": records}).encode()
        request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            rows = json.load(answer)["predictions"]
        assert [(row["input"], row["status"]) for row in rows] == [("0", "ok"), ("1", "unreadable")]
        (expected,) = load(next(model.rglob("*.safetensors")), device="cpu").predict(photo).to_dict("records")
        assert {name: rows[0][name] for name in ("expression", "confidence", "p_anger", "x1", "y2")} == pytest.approx(
            {name: expected[name] for name in ("expression", "confidence", "p_anger", "x1", "y2")}, abs=1e-3
        )
        request = urllib.request.Request(
            f"{address}/invocations", b'{"dataframe_records": [{"photo": ""}]}', {"Content-Type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(request, timeout=60)
    finally:
        server.terminate()
        server.wait(30)
