"""Features and Grad-CAM of faces: those of the network on the views that it sees."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ssfer.core.errors import SsferError
from ssfer.evaluation.attack.gradcam import grad_cam
from ssfer.predict.insight import overlaid
from tests.support.factory import CLASSES
from tests.support.rendered_photos import bright_photo
from tests.support.small_model import small_recognizer

PHOTO = bright_photo((5, 5, 35, 35), (50, 20, 90, 60))


def test_features_are_what_the_last_layer_takes_beside_the_rows_of_predict(tmp_path: Path) -> None:
    recognizer = small_recognizer(tmp_path)
    inputs = [bright_photo(), PHOTO]
    table, rows = recognizer.features(inputs), recognizer.predict(inputs)
    assert table["status"].tolist() == rows["status"].tolist() == ["no_face", "ok", "ok"]
    found = table.filter(regex="^f[0-9]+$").to_numpy(np.float32).copy()
    assert np.isnan(found[0]).all()
    network = recognizer.runtime.network
    with torch.no_grad():
        probs = network.head(torch.tensor(found[1:])).softmax(dim=1).numpy()
    assert probs == pytest.approx(rows[[f"p_{name}" for name in CLASSES]].to_numpy(np.float32)[1:], abs=1e-5)


def test_explanations_are_grad_cam_on_each_face_and_are_shown_in_notebooks(tmp_path: Path) -> None:
    recognizer = small_recognizer(tmp_path)
    first, second = recognizer.explain([bright_photo(), PHOTO])
    assert (first.row["face"], second.row["face"]) == (0, 1)
    pixels = torch.from_numpy(second.view).permute(2, 0, 1)[None] / 255
    meta = recognizer.runtime.meta
    expected = grad_cam(recognizer.runtime.network, pixels, tuple(meta["mean"]), tuple(meta["std"]))[0]
    assert second.heat == pytest.approx(expected.numpy(), abs=1e-5)
    shown = second._repr_html_()
    assert shown.count("data:image/jpeg;base64,") == 2 and all(name in shown for name in CLASSES)


def test_another_runtime_than_torch_has_no_gradients(tmp_path: Path) -> None:
    recognizer = small_recognizer(tmp_path)
    recognizer.runtime = SimpleNamespace(size=16)  # as onnx: no network to look into
    for look in (recognizer.explain, recognizer.features):
        with pytest.raises(SsferError, match="load the weights with runtime='torch'"):
            look(PHOTO)


def test_a_map_colors_where_it_is_high() -> None:
    view, heat = np.full((8, 8, 3), 100, np.uint8), np.zeros((8, 8), np.float32)
    heat[:, 4:] = 1
    seen = overlaid(view, heat)
    assert seen.shape == (176, 176, 3) and tuple(seen[88, 0]) == (55, 55, 57)  # 55 % of 100, inferno's darkest
    assert tuple(seen[88, -1]) == (168, 170, 129)  # inferno's brightest is (252, 255, 164)
