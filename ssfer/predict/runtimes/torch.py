"""Run the network of ssfer's weights files with torch."""

from __future__ import annotations

import re
import sys
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssfer.core.device import choose_device, hidden_gpu
from ssfer.core.errors import SsferError
from ssfer.core.pixels import normalize
from ssfer.models import classifier
from ssfer.models.backbone import params_of


class TorchRuntime:
    """See `ssfer.predict.runtimes.base.Runtime`.

    Attributes:
        network: in eval mode, on the device.
        temperature: divides the logits.
    """

    def __init__(self, path: Path, device: str) -> None:
        self.network, self.meta = classifier.load(path)
        self.network.eval().to(device)
        self.device = device
        self.classes = tuple(self.meta["classes"])
        self.size = params_of(self.meta["arch"]).img_size
        self.temperature = float(self.meta.get("temperature", 1.0))

    @torch.inference_mode()
    def __call__(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Runtime`."""
        logits = self.network(self.inputs(views))
        probs: NDArray[np.float32] = (logits.double() / self.temperature).softmax(dim=1).float().cpu().numpy()
        return probs

    def inputs(self, views: NDArray[np.uint8]) -> torch.Tensor:
        """Return the network's input (N, 3, size, size), normalized, for views (N, size, size, 3), uint8."""
        images = torch.from_numpy(np.ascontiguousarray(views)).permute(0, 3, 1, 2).to(self.device)
        return normalize(images, self.meta["mean"], self.meta["std"])


def open_runtime(path: Path, device: str) -> Any:
    """See `ssfer.predict.runtimes.base.open_runtime`."""
    return TorchRuntime(path, inference_device(device))


def inference_device(name: str) -> str:
    """Return the device that a command's `--device` means here; warn on stderr if auto leaves a GPU unused.

    Raises:
        SsferError: a name that `choose_device` does not know, or there is no such device.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise SsferError(f"expected device auto, cpu, cuda, cuda:N or mps, found '{name}'")
    device = choose_device(name, "device")
    if name == "auto" and parent_process() is None and (warning := hidden_gpu(device)):  # workers do not repeat it
        print(f"WARNING: {warning}", file=sys.stderr, flush=True)
    return str(device)
