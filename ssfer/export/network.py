"""The module that every export is made from: the classifier with its preprocessing and calibration inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssfer.core.errors import SsferError
from ssfer.core.pixels import normalize
from ssfer.formats.weights import load_weights
from ssfer.models import classifier

INPUT, OUTPUT = "images", "probabilities"  # names of the input and output in the exported files
BATCHES = (1, 3, 8)  # batch sizes at which an export is compared with torch
TOLERANCE = 1e-4  # largest allowed difference of probabilities from torch
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class CropClassifier(nn.Module):
    """Compute calibrated class probabilities from the stored pixels of face crops.

    Args:
        network: takes normalized images (N, 3, H, W), returns logits (N, K).
        mean, std: of pixels in 0..1, RGB.
        temperature: divides the logits.
    """

    def __init__(
        self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.network, self.mean, self.std, self.temperature = network, mean, std, temperature

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities (N, K), float32, of uint8 RGB crops (N, H, W, 3) of the network's input size."""
        logits = self.network(normalize(images.permute(0, 3, 1, 2), self.mean, self.std))
        return (logits.float() / self.temperature).softmax(dim=1)


@dataclass(frozen=True)
class Exportable:
    """A classifier to be exported.

    Attributes:
        module: in eval mode, on the CPU.
        meta: of the weights file, with `size`, `temperature` and `input` added.
        source: the weights file.
    """

    module: CropClassifier
    meta: dict[str, Any]
    source: Path

    @property
    def size(self) -> int:
        """Return the side of the network's square input in pixels."""
        return int(self.meta["size"])

    @property
    def example(self) -> Tensor:
        """Return two black crops (2, size, size, 3), uint8; with one, exporters would fix the batch size at 1."""
        return torch.zeros(2, self.size, self.size, 3, dtype=torch.uint8)


def load_exportable(weights: Path) -> Exportable:
    """Return the classifier in a weights file, ready to be exported.

    Raises:
        SsferError: missing, damaged or foreign weights, or weights without class names.
    """
    if weights.suffix != ".safetensors" and weights.is_file():
        raise SsferError(
            f"{weights} is no .safetensors file: expected weights that ssfer wrote, found a '{weights.suffix}' file; "
            "convert other checkpoints with ssfer weights import"
        )
    if not load_weights(weights, classifier.KINDS)[1].get("classes"):
        raise SsferError(f"{weights} names no classes, so its outputs have no meaning; write it again with dvc repro")
    network, meta = classifier.load(weights)
    facts = {
        "size": meta["arch"]["img_size"],
        "temperature": float(meta.get("temperature", 1.0)),
        "input": "uint8 RGB face crops (N, size, size, 3); mean, std and temperature are applied inside",
    }
    module = CropClassifier(network.eval(), tuple(meta["mean"]), tuple(meta["std"]), facts["temperature"]).eval()
    return Exportable(module, {**meta, **facts}, weights)


def torch_run(module: nn.Module) -> Run:
    """Return a function that runs a module on NumPy crops and returns NumPy probabilities."""

    @torch.inference_mode()
    def run(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = module(torch.from_numpy(crops)).numpy()
        return probabilities

    return run


def deviation(run: Run, exportable: Exportable) -> float:
    """Return the largest difference in probabilities between `run` and torch, on noise in batches of 1, 3 and 8."""
    reference, rng = torch_run(exportable.module), np.random.default_rng(0)
    found = []
    for n in BATCHES:
        crops = rng.integers(0, 256, (n, exportable.size, exportable.size, 3), dtype=np.uint8)
        found.append(np.abs(run(crops) - reference(crops)).max())
    return float(np.max(found))  # NaN if one is


def checked_deviation(run: Run, exportable: Exportable, what: str) -> float:
    """Return `deviation`, checked.

    Raises:
        SsferError: it exceeds TOLERANCE or is NaN.
    """
    found = deviation(run, exportable)
    if not found <= TOLERANCE:
        raise SsferError(
            f"{what} of {exportable.source} differs from torch: expected probabilities equal within {TOLERANCE:g}, "
            f"found a difference of {found:g}; nothing was written; please report it with the output of ssfer weights "
            "show"
        )
    return found


def public(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of an export: those of the weights without the version of the weights' format."""
    return {key: value for key, value in meta.items() if key != "format"}
