"""A tiny classifier with random weights in a weights file, as stages write it, and photos for a detector of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssfer.formats.weights import load_weights, save_weights
from ssfer.models import classifier
from ssfer.models.vit import build_classifier
from ssfer.predict.recognizer import Recognizer, load
from tests.support import factory
from tests.support.rendered_photos import BrightDetector

RECIPE = "mtcnn-similarity5-v2-24+resize-v1-24"


def write_model(path: Path, **meta: Any) -> Path:
    """Write a classifier of 16 px inputs whose answers differ between pictures; `meta` changes its metadata."""
    settings = factory.tiny_params().model
    torch.manual_seed(1)
    network = build_classifier(settings, len(factory.CLASSES))
    nn.init.normal_(network.head.weight, std=0.5)
    classifier.save(path, network, settings, factory.CLASSES, data_fingerprint="0" * 64, recipe=RECIPE)
    if meta:
        state, found = load_weights(path)
        save_weights(path, state, {key: value for key, value in (found | meta).items() if value is not None})
    return path


def small_recognizer(folder: Path, **meta: Any) -> Recognizer:
    """Return a Recognizer of such a classifier that finds bright rectangles."""
    return load(write_model(folder / "small.safetensors", **meta), device="cpu", detector=BrightDetector())  # type: ignore[arg-type]
