"""Run a model of `ssfer export --to onnx` with onnxruntime on the CPU; torch computes nothing."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssfer.core.errors import SsferError
from ssfer.core.extras import need
from ssfer.core.process import available_cpus

KEY = "ssfer"  # of the metadata in a file


class OnnxRuntime:
    """See `ssfer.predict.runtimes.base.Runtime`."""

    device = "cpu"

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        alone = multiprocessing.parent_process() is None  # else the other workers have the other CPUs
        options.intra_op_num_threads = available_cpus() if alone else 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            text = self._session.get_modelmeta().custom_metadata_map.get(KEY, "{}")
        except Exception as error:  # onnxruntime raises its own classes
            reason = (str(error).strip().splitlines() or [""])[0][:160]
            raise SsferError(
                f"{path} is no readable ONNX model ({reason}); write it with ssfer export WEIGHTS --to onnx"
            ) from error
        self.meta = json.loads(text)
        if not self.meta.get("classes"):
            raise SsferError(
                f"{path} names no classes: expected an ONNX model that ssfer export wrote, with its metadata under the "
                f"key '{KEY}'"
            )
        self.classes = tuple(self.meta["classes"])
        self.size = int(self.meta["size"])

    def __call__(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Runtime`."""
        name = self._session.get_inputs()[0].name
        probabilities: NDArray[np.float32] = self._session.run(None, {name: np.ascontiguousarray(views)})[0]
        return probabilities


def open_runtime(path: Path, device: str) -> OnnxRuntime:
    """See `ssfer.predict.runtimes.base.open_runtime`."""
    need("onnxruntime", "export", "runtime onnx")
    if device not in ("auto", "cpu"):
        raise SsferError(
            f"runtime onnx computes on the CPU, found device '{device}'; use auto or cpu, or runtime torch"
        )
    return OnnxRuntime(path)
