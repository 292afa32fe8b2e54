"""The interface of runtimes, and how one is opened."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssfer.core.errors import unknown_name

RUNTIMES = ("onnx", "torch")


class Runtime(Protocol):
    """Compute calibrated probabilities of views of faces.

    Each file of this package has a function `open_runtime(path, device)` that returns a runtime.

    Attributes:
        meta: the file's metadata, with the keys of a weights file (`ssfer.formats.weights`).
        classes: names in the order of the probabilities.
        size: side of a view in pixels.
        device: name of the device it computes on.
    """

    meta: Mapping[str, Any]
    classes: tuple[str, ...]
    size: int
    device: str

    def __call__(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities (N, C), float32, of RGB views (N, size, size, 3), uint8; rows sum to 1."""
        ...


def open_runtime(name: str, path: Path, device: str) -> Runtime:
    """Return a runtime with the network of a file.

    Args:
        name: "torch", ...
        path: weights in the format that the runtime reads.
        device: "auto", "cpu" or "cuda".

    Raises:
        SsferError: unknown runtime, an unreadable file, a missing device.
    """
    if name not in RUNTIMES:
        raise unknown_name("runtime", name, RUNTIMES)
    module: Any = importlib.import_module(f"ssfer.predict.runtimes.{name}")
    runtime: Runtime = module.open_runtime(path, device)
    return runtime
