"""The module that every export is made from: preprocessing and temperature inside, and the comparison with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ssfer.core.errors import SsferError
from ssfer.core.pixels import normalize
from ssfer.export.network import BATCHES, checked_deviation, load_exportable, torch_run
from ssfer.models import classifier
from tests.support.exports import exportable, write_weights


def test_probabilities_are_those_of_the_weights_divided_by_the_temperature(tmp_path: Path) -> None:
    made = exportable(tmp_path, temperature=2.5)
    crops = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    network, meta = classifier.load(tmp_path / "plain.safetensors")
    with torch.no_grad():
        logits = network.eval()(normalize(torch.from_numpy(crops).permute(0, 3, 1, 2), meta["mean"], meta["std"]))
    assert np.allclose(torch_run(made.module)(crops), (logits / 2.5).softmax(1), atol=1e-6)
    assert (made.size, made.meta["temperature"]) == (16, 2.5)
    assert exportable(tmp_path).meta["temperature"] == 1.0


def test_another_result_is_refused(tmp_path: Path) -> None:
    made = exportable(tmp_path)
    sizes: list[int] = []

    def run(crops: np.ndarray) -> np.ndarray:
        sizes.append(len(crops))
        return torch_run(made.module)(crops) + np.float32(2e-4)

    with pytest.raises(SsferError, match="of .* differs from torch: expected probabilities equal within 0.0001"):
        checked_deviation(run, made, "the file")
    assert tuple(sizes) == BATCHES
    with pytest.raises(SsferError, match="difference of nan"):
        checked_deviation(lambda crops: run(crops) * np.float32("nan"), made, "the file")


@pytest.mark.parametrize(
    ("name", "meta", "expected"),
    [
        ("weights.onnx", {}, "is no .safetensors file: expected weights that ssfer wrote, found a '.onnx' file"),
        ("weights.safetensors", {"classes": None}, "names no classes"),
        ("weights.safetensors", {"kind": "mae"}, "holds weights of kind 'mae', expected 'classifier' or 'fused'"),
    ],
)
def test_other_files_are_one_sentence(tmp_path: Path, name: str, meta: dict[str, object], expected: str) -> None:
    path = write_weights(tmp_path / "weights.safetensors", **meta)
    with pytest.raises(SsferError, match=expected):
        load_exportable(path.rename(tmp_path / name))
