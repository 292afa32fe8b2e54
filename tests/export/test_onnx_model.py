"""ONNX models: any batch size, equal probabilities, metadata; smaller files; the runtime that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssfer.core import pixels
from ssfer.export import onnx_int8, onnx_model
from ssfer.export.network import Exportable, deviation, torch_run
from tests.support import factory
from tests.support.classifiers import SLOW_FORMS
from tests.support.exports import exportable, onnx_metadata

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")


@pytest.fixture(scope="module", params=SLOW_FORMS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Exportable, Any]:
    made = exportable(tmp_path_factory.mktemp("onnx"), request.param, temperature=1.5)
    pixels._kept_channels.cache_clear()  # as in a process whose first images are the exporter's
    model, found = onnx_model.onnx_model(made)
    assert found < 1e-5
    return made, model


def crops(made: Exportable, n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, made.size, made.size, 3), dtype=np.uint8)


def test_onnxruntime_says_what_torch_says_at_any_batch_size(exported: tuple[Exportable, Any]) -> None:
    made, model = exported
    run = onnx_model.onnx_run(model)
    for n in (1, 2, 5):
        assert np.allclose(run(crops(made, n)), torch_run(made.module)(crops(made, n)), atol=1e-5)
    meta = onnx_metadata(model)
    assert meta["classes"] == list(factory.CLASSES) and meta["temperature"] == 1.5 and meta["size"] == made.size
    assert meta["mean"] == list(made.module.mean) and meta["crop_recipe"] == "r"


def test_half_stores_less_and_says_almost_the_same(exported: tuple[Exportable, Any]) -> None:
    made, model = exported
    half = onnx_model.halve(model)
    assert half.ByteSize() < 0.85 * model.ByteSize() and 0 < deviation(onnx_model.onnx_run(half), made) < 0.01
    assert deviation(onnx_model.onnx_run(model), made) < 1e-5  # unchanged


def test_8_bits_say_nearly_the_same(exported: tuple[Exportable, Any]) -> None:
    made, model = exported
    way = onnx_int8.way_of(made.module.network)
    assert way == ("static" if "backbone" in made.meta["arch"] else "dynamic")
    small = onnx_int8.quantize(model, way, crops(made, 40))
    assert any("Integer" in node.op_type or node.op_type == "QuantizeLinear" for node in small.graph.node)
    assert 0 < deviation(onnx_model.onnx_run(small), made) < 0.2


def test_the_model_tells_nothing_of_this_machine(exported: tuple[Exportable, Any]) -> None:
    data = exported[1].SerializeToString()
    assert b"/site-packages/" not in data and str(Path.home()).encode() + b"/" not in data and b".py" not in data
