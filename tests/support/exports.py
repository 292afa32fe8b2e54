"""Weights to export, written once per form and process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ssfer.export.network import Exportable, load_exportable
from ssfer.formats.weights import load_weights, save_weights
from ssfer.models import classifier
from tests.support import factory
from tests.support.classifiers import PRINT, network, settings


def write_weights(path: Path, form: str = "plain", **meta: Any) -> Path:
    """Write a classifier whose probabilities differ between pictures; `meta` changes its metadata, None removes."""
    net = network(form).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else None
    classifier.save(path, net, settings(form), factory.CLASSES, **PRINT)
    state, found = load_weights(path)
    save_weights(path, state, {key: value for key, value in (found | meta).items() if value is not None})
    return path


def exportable(folder: Path, form: str = "plain", **meta: Any) -> Exportable:
    """Return such a classifier, ready to be exported."""
    return load_exportable(write_weights(folder / f"{form}.safetensors", form, **meta))


def onnx_metadata(model: Any) -> dict[str, Any]:
    """Return the metadata of an ONNX model."""
    (entry,) = model.metadata_props
    assert entry.key == "ssfer"
    found: dict[str, Any] = json.loads(entry.value)
    return found
