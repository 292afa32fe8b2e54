"""`ssfer predict` and `ssfer models`: a table, what was found in a few lines, one sentence for what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from ssfer.cli.main import app
from ssfer.predict import run, shipped_models
from ssfer.predict.shipped_models import DEFAULT
from tests.support.rendered_photos import BrightDetector, bright_photo
from tests.support.small_model import write_model

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("ssfer.predict.recognizer.build_detector", lambda *_: BrightDetector())
    monkeypatch.chdir(tmp_path)
    bright_photo((5, 5, 35, 35), (50, 20, 90, 60)).save(tmp_path / "a.png")
    run.loaded.cache_clear()
    return write_model(tmp_path / "small.safetensors")


def command(capsys: Capture, *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        app([str(word) for word in words], prog_name="ssfer")
    return int(end.value.code or 0), *capsys.readouterr()


def test_a_photo_becomes_rows_and_the_counts_are_said(capsys: Capture, model: Path) -> None:
    status, out, _ = command(capsys, "predict", "a.png", "b.png", "--model", model, "--device", "cpu", "--abstain", "1")
    assert status == 0
    assert out.splitlines()[0] == "model small: anger, happiness, surprise"
    assert "2 faces in 2 pictures" in out and "2 of them uncertain" in out and "missing: 1 (b.png)" in out
    assert pd.read_csv("faces.csv")["status"].tolist() == ["uncertain", "uncertain", "missing"]


@pytest.mark.parametrize(("own", "kernels"), [(None, "16"), ("1024", "1024")])
def test_compiled_kernels_do_not_pile_up_unless_the_user_says_how_many(
    capsys: Capture, model: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, kernels: str
) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", own or "")
    if own is None:
        monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    command(capsys, "predict", "a.png", "--model", model, "--device", "cpu")
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == kernels


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected PATHs or --camera NUMBER"),
        (("a.png", "--camera", "0"), "expected PATHs or --camera NUMBER"),
        (("a.png", "--seconds", "3"), "--seconds is for --camera; leave it out"),
        (("a.png", "--out", "faces.xlsx"), "expected a name that ends in .csv, .jsonl, .parquet"),
        (("a.png", "--out", "a.png/faces.csv"), "cannot be written to"),
        (("a.png", "--faces", "some"), "expected faces all, largest or whole, found 'some'"),
        (("a.png", "--runtime", "tensorflow"), "unknown runtime 'tensorflow'"),
        (("a.png", "--annotate", "."), "lies among the inputs"),
        (("--camera", "63"), "there is no camera 63"),
    ],
)
def test_what_cannot_work_is_one_sentence(capsys: Capture, model: Path, words: tuple[str, ...], message: str) -> None:
    status, _, err = command(capsys, "predict", *words, "--model", model, "--device", "cpu")
    assert status == 2 and message in err and err.count("ssfer predict: error:") == 1


def test_a_camera_that_is_not_there_leaves_an_earlier_table(capsys: Capture, model: Path) -> None:
    Path("faces.csv").write_text("of yesterday")
    status, _, err = command(capsys, "predict", "--camera", "63", "--model", model, "--device", "cpu")
    assert status == 2 and "there is no camera 63" in err and Path("faces.csv").read_text() == "of yesterday"
    assert sorted(path.name for path in Path().iterdir()) == ["a.png", "faces.csv", "small.safetensors"]


def test_without_a_model_that_ships_the_way_to_ones_own_is_named(
    capsys: Capture, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped_models, "shipped", lambda name: tmp_path / "none")
    status, _, err = command(capsys, "predict", "a.png")
    assert status == 2 and f"no model '{DEFAULT}' ships" in err and "data/weights/model.safetensors" in err
    assert "no model ships with this version" in command(capsys, "models")[1]


def test_models_that_ship_are_listed_and_the_default_one_is_found(
    capsys: Capture, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    model.rename(tmp_path / "models" / f"{DEFAULT}.safetensors")
    monkeypatch.setattr(shipped_models, "shipped", lambda name: tmp_path / name)
    status, out, _ = command(capsys, "models")
    assert status == 0 and out.startswith(f"{DEFAULT}: 0.") and "default; anger, happiness, surprise" in out
    assert "as ONNX" not in out and "for training, ssfer fetch has clip, " in out and "retinaface-mobilenet" in out
    (tmp_path / "models" / f"{DEFAULT}.onnx").write_bytes(bytes(2_000_000))
    assert "MB, as ONNX 2.0 MB, default; anger" in command(capsys, "models")[1]
    assert f"model {DEFAULT}: anger" in command(capsys, "predict", "a.png", "--device", "cpu")[1]
