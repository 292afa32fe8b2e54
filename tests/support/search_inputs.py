"""What the tests of the learning-rate search need on disk."""

from __future__ import annotations

from pathlib import Path

from ssfer.config.schema import Params
from ssfer.core.places import ENCODER
from ssfer.formats.weights import save_weights
from ssfer.models.classifier import metadata
from ssfer.models.vit import HEAD_KEYS, build_classifier
from tests.support import factory


def write_inputs(root: Path) -> Params:
    """Write faces, a split and an encoder into `root`."""
    params = factory.write_project(root)
    state = {k: v for k, v in build_classifier(params.model, 3).state_dict().items() if k not in HEAD_KEYS}
    save_weights(root / ENCODER, state, metadata("encoder", params.model, "x", "y"))
    return params
