"""The how-to pages on predicting, exporting and serving: what they tell to type works, at small size."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from textwrap import dedent
from typing import Any

import pandas as pd
import pytest

from ssfer.cli.main import app
from ssfer.predict import run
from tests.support.moving_scenes import TIMES, FakeCapture, crossing, write_video
from tests.support.rendered_photos import BrightDetector, bright_photo
from tests.support.small_model import small_recognizer, write_model

HOWTO = Path(__file__).resolve().parents[2] / "docs/howto"
WEIGHTS = "data/weights/model.safetensors"


def blocks(page: str) -> list[str]:
    """Return the indented blocks of a page."""
    return [
        dedent(block).strip() for block in re.findall(r"^(?: {4}.*\n|\n(?= {4}))+", (HOWTO / page).read_text(), re.M)
    ]


def commands(page: str) -> list[list[str]]:
    """Return the words of the `ssfer` commands of a page, in blocks and within text."""
    text = (HOWTO / page).read_text()
    found = [line for block in blocks(page) for line in block.splitlines()] + re.findall(
        r"`(ssfer predict [^`]+)`", text
    )
    return [shlex.split(line, comments=True)[1:] for line in found if line.startswith("ssfer ")]


def execute(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        app(words, prog_name="ssfer")
    assert not end.value.code, words


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with what the pages name: photos, a video and weights; it is the current one."""
    pytest.importorskip("av", reason="the extra 'video' is not installed")
    monkeypatch.setattr("ssfer.predict.recognizer.build_detector", lambda *_: BrightDetector())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/1.jpg", "photos/2.jpg"):
        bright_photo((5, 5, 35, 35), (50, 20, 90, 60)).save(tmp_path / name)
    write_video(tmp_path / "clip.mp4", [crossing(i) for i in range(6)], TIMES)
    (tmp_path / WEIGHTS).parent.mkdir(parents=True)
    write_model(tmp_path / WEIGHTS)
    run.loaded.cache_clear()
    return tmp_path


def test_commands_on_predicting(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssfer.predict.video.cv2.VideoCapture", FakeCapture)
    found = commands("predict.md")
    assert len(found) >= 3 and ["predict", "photos/", "--out", "faces.csv"] in found
    tables = []
    for words in found:
        execute(words)
        tables.append(pd.read_csv(place / "faces.csv"))
    assert len(tables[0]) == 4 and set(tables[0]["status"]) == {"ok"}
    assert tables[1]["track"].notna().all() and (place / "seen/clip.mp4").is_file()


def test_python_on_predicting(place: Path) -> None:
    (code,) = [block for block in blocks("predict.md") if block.startswith("import ssfer")]
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["table"]["expression"].notna().all() and len(names["table"]) == 4


@pytest.mark.parametrize("form", re.findall(r"^\| `(\w+)` \|", (HOWTO / "export.md").read_text(), re.M))
def test_exports(place: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    for package in {"onnx": ("onnxscript", "onnxruntime"), "mlflow": ("mlflow",)}.get(form, ()):
        pytest.importorskip(package)
    execute(["export", WEIGHTS, "--to", form] if form != "onnx" else next(w for w in commands("export.md")))
    made = next((place / "data/exports").iterdir())
    assert f"written: {made}" in capsys.readouterr().out
    if form == "onnx":
        execute(["predict", "photo.jpg", "--model", str(made)])
        assert set(pd.read_csv("faces.csv")["status"]) == {"ok"}


def test_the_request_of_the_endpoint(place: Path) -> None:
    pytest.importorskip("fastapi", reason="the extra 'app' is not installed")
    from ssfer.app.recognition import Recognition
    from ssfer.app.server import create_app
    from tests.support.page_server import thread_server

    (line,) = [line for block in blocks("export.md") for line in block.splitlines() if line.startswith("curl ")]
    with thread_server(create_app(Recognition(small_recognizer(place)))) as address:
        words = shlex.split(line.replace("http://127.0.0.1:7861", address))
        answer = subprocess.run([*words, "--silent"], capture_output=True, text=True, check=True).stdout
    assert '"status":"ok"' in answer and '"probabilities"' in answer
