"""Files that the ONNX runtime cannot use."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.predict.recognizer import load

onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")


def foreign(path: Path) -> Path:
    """Write somebody else's ONNX model: the identity."""
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "ab"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["a"], ["b"])], "g", value[:1], value[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_a_model_of_others_or_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match="names no classes: expected an ONNX model that ssfer export wrote"):
        load(foreign(tmp_path / "foreign.onnx"))
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    with pytest.raises(SsferError, match="is no readable ONNX model .*; write it with ssfer export WEIGHTS --to onnx"):
        load(tmp_path / "damaged.onnx")
    with pytest.raises(SsferError, match="unknown runtime 'onxx'; did you mean 'onnx'"):
        load(tmp_path / "foreign.onnx", runtime="onxx")
