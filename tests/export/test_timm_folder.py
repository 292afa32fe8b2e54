"""A folder for timm's own factory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from ssfer.core.errors import SsferError
from ssfer.export.network import load_exportable
from ssfer.export.timm_folder import timm_folder
from ssfer.predict.shipped_models import find_model
from tests.support import factory
from tests.support.exports import exportable


@pytest.mark.parametrize("form", ["plain", "resnet"])
def test_timm_loads_the_folder(tmp_path: Path, form: str) -> None:
    made, out = exportable(tmp_path, form, temperature=1.5), tmp_path / "folder"
    assert timm_folder(made, out) < 1e-5
    loaded = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    images = torch.randn(2, 3, made.size, made.size)
    with torch.no_grad():
        assert torch.allclose(loaded(images), made.module.network(images), atol=1e-5)
    data = timm.data.resolve_model_data_config(loaded)
    assert data["input_size"] == (3, made.size, made.size) and tuple(data["mean"]) == made.module.mean
    config = json.loads((out / "config.json").read_text())
    assert config["label_names"] == list(factory.CLASSES) and config["ssfer"]["temperature"] == 1.5


@pytest.mark.parametrize("form", ["experts", "fused"])
def test_a_head_that_timm_does_not_have_is_refused(tmp_path: Path, form: str) -> None:
    with pytest.raises(SsferError, match="head of ssfer's own, which timm cannot load; expected a plain classifier"):
        timm_folder(exportable(tmp_path, form), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_network_of_ssfers_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match="timm has no face_convnet_mirrored, which is not one of its networks; export"):
        timm_folder(load_exportable(find_model()), tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
