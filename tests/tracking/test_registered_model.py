"""The trained model in MLflow's registry, when asked."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest

from ssfer.core.errors import SsferError
from ssfer.core.places import TRAINED_MODEL
from ssfer.tracking.tracker import log_build
from tests.support.mlflow_runs import client_of, make_params, write_results
from tests.support.rendered_photos import bright_photo
from tests.support.small_model import write_model

mlflow = pytest.importorskip("mlflow")
NAME = "expressions"


def versions(root: Path) -> list[str]:
    return sorted(v.version for v in client_of(root).search_model_versions(f"name = '{NAME}'"))


def test_the_model_is_registered_once_per_weights(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_results(root, ["evaluate"])
    params = make_params(tracking__register_model=NAME)
    log_build(params)
    assert "no model is registered as expressions: there is no data/weights/model.safetensors" in capfd.readouterr().err
    write_model(root / TRAINED_MODEL)
    log_build(make_params())
    assert versions(root) == []
    log_build(params)
    log_build(params)
    assert [int(v) for v in versions(root)] == [1]
    assert capfd.readouterr().err == "tracking: mlflow.db has the model as expressions, version 1\n"
    write_model(root / TRAINED_MODEL, temperature=2)
    log_build(params)
    assert [int(v) for v in versions(root)] == [1, 2]
    mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
    photo = io.BytesIO()
    bright_photo().save(photo, "PNG")
    rows = mlflow.pyfunc.load_model(f"models:/{NAME}/2").predict(pd.DataFrame({"image": [photo.getvalue()]}))
    assert [row["status"] for row in rows] == ["no_face"]


def test_weights_that_are_none_cost_one_line(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_results(root, ["evaluate"])
    (root / TRAINED_MODEL).parent.mkdir(parents=True)
    (root / TRAINED_MODEL).write_bytes(b"none")
    log_build(make_params(tracking__register_model=NAME))
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("tracking: no model is registered as expressions: data/weights/model.safetensors is not a ")


def test_a_name_that_the_registry_cannot_have_is_refused() -> None:
    with pytest.raises(SsferError, match="'tracking.register_model': a text of another form is expected"):
        make_params(tracking__register_model="a/b")
