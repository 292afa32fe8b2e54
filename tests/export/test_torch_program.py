"""A torch.export program: any batch size, equal probabilities, metadata inside."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ssfer.export.network import torch_run
from ssfer.export.torch_program import METADATA, torch_program
from tests.support import factory
from tests.support.classifiers import SLOW_FORMS
from tests.support.exports import exportable


@pytest.mark.parametrize("form", SLOW_FORMS)
def test_the_program_says_what_the_classifier_says(tmp_path: Path, form: str) -> None:
    made = exportable(tmp_path, form, temperature=1.5)
    data, found = torch_program(made)
    extra = {METADATA: ""}
    program = torch.export.load(io.BytesIO(data), extra_files=extra).module()
    crops = np.random.default_rng(2).integers(0, 256, (5, made.size, made.size, 3), dtype=np.uint8)
    assert np.allclose(torch_run(program)(crops), torch_run(made.module)(crops), atol=1e-6) and found < 1e-6
    meta = json.loads(extra[METADATA])
    assert meta["classes"] == list(factory.CLASSES) and meta["temperature"] == 1.5 and "format" not in meta
