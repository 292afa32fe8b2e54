"""`ssfer export`: files where they belong, what is printed, and one sentence for what does not work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssfer.core.errors import SsferError
from ssfer.data.split import load_split
from ssfer.export.write import export
from ssfer.predict.recognizer import load
from tests.support import factory
from tests.support.exports import write_weights
from tests.support.rendered_photos import BrightDetector, bright_photo

RECIPE = "mtcnn-similarity5-v2-24"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"to": "onxx"}, "unknown format 'onxx'; did you mean 'onnx'"),
        ({"to": "timm", "int8": True}, "--int8 and --half are of ONNX models, found --to timm"),
        ({"to": "onnx", "int8": True, "half": True}, "give one of them"),
        ({"to": "torch", "out": "weights.safetensors"}, "exists already; remove it or name another place with --out"),
        ({"to": "torch", "out": "weights.safetensors/x.pt2"}, "cannot be written"),
    ],
)
def test_what_does_not_work_is_one_sentence(project: Path, options: dict[str, object], expected: str) -> None:
    weights = write_weights(project / "weights.safetensors")
    settings = {key: project / str(value) if key == "out" else value for key, value in options.items()}
    with pytest.raises(SsferError, match=expected):
        export(weights, **settings)  # type: ignore[arg-type]
    assert not (project / "data/exports").exists()


def test_a_convolutional_network_is_not_quantized_without_faces(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sympy", reason="the extra 'export' is not installed")
    with pytest.raises(SsferError, match="quantized with calibration faces, and there are none"):
        export(write_weights(project / "w.safetensors", "resnet"), "onnx", int8=True)
    assert capsys.readouterr().out == ""  # known before the work


def test_a_failed_export_leaves_nothing(project: Path) -> None:
    (project / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(SsferError, match="is not a readable safetensors file"):
        export(project / "weights.safetensors", "torch")
    assert list((project / "data").rglob("*.*")) == []


def test_onnx_in_the_weights_own_project(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The accuracy on the validation part is said, and the runtime that reads the file agrees with torch's."""
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    factory.write_project(project)
    split = load_split()
    weights = write_weights(
        project / "own.safetensors", data_fingerprint=split["hash"], crop_recipe=RECIPE, temperature=2
    )
    out = export(weights, "onnx")
    said = capsys.readouterr().out
    assert out == project / "data/exports/own.onnx" and "largest difference of probabilities to torch" in said
    line = next(line for line in said.splitlines() if line.startswith("accuracy"))
    assert line.startswith("accuracy on the validation part (6 faces): ")
    figures = [word for word in line.split() if "." in word]
    assert figures[0] == figures[1]  # onnx and torch
    detector, photo = BrightDetector(), bright_photo((10, 10, 40, 40), (60, 20, 80, 40))
    by_onnx, by_torch = (load(path, detector=detector, device="cpu") for path in (out, weights))  # type: ignore[arg-type]
    tables = [recognizer.predict(photo) for recognizer in (by_onnx, by_torch)]
    names = [f"p_{name}" for name in factory.CLASSES]
    assert type(by_onnx.runtime).__name__ == "OnnxRuntime" and len(tables[0]) == 2
    assert np.allclose(tables[0][names].to_numpy(), tables[1][names].to_numpy(), atol=2e-6)
    with pytest.raises(SsferError, match="runtime onnx computes on the CPU, found device 'cuda'"):
        load(out, device="cuda")


def test_elsewhere_the_accuracy_is_not_measured(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    factory.write_project(project)
    out = export(write_weights(project / "other.safetensors"), "onnx", half=True)
    said = capsys.readouterr().out
    assert out.name == "other.half.onnx" and "accuracy: not measured, the validation part" in said
