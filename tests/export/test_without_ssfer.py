"""The lines in docs/howto/export.md that use an ONNX model without ssfer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ImageFilter

import ssfer
from ssfer.predict.shipped_models import find_model
from ssfer.predict.table import LANDMARKS
from tests.support.rendered_photos import BrightDetector, bright_photo

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
PAGE = Path(__file__).resolve().parents[2] / "docs/howto/export.md"


def test_the_lines_of_the_docs_give_the_tables_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssfer.predict.recognizer.build_detector", lambda *_: BrightDetector())
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    model = find_model("ferplus-small", "onnx")
    names: dict[str, Any] = {}
    exec(code.replace('"model.onnx"', repr(str(model))), names)
    photo = bright_photo((20, 20, 100, 100), (150, 30, 270, 150), size=(300, 200)).filter(ImageFilter.GaussianBlur(2))
    table = ssfer.load("ferplus-small", runtime="onnx").predict(photo)
    assert len(table) == 2
    for _, row in table.iterrows():
        points = row[list(LANDMARKS)].to_numpy(float).reshape(5, 2)
        expected = row[[f"p_{name}" for name in names["facts"]["classes"]]].to_numpy(float)
        assert np.abs(names["probabilities"](photo, points) - expected).max() < 0.03
        assert np.abs(names["probabilities"](photo, points + 25) - expected).max() > 0.05
