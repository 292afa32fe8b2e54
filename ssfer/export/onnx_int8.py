"""Quantize an ONNX model to 8 bits with onnxruntime.

Convolutional networks are quantized statically: calibration faces give the ranges of their activations. ViTs are
quantized dynamically (only matrix products, ranges measured at run time), as onnxruntime advises for transformers.
Weights use 7 of the 8 bits: on CPUs without VNNI, products of 8 bits overflow 16-bit sums (onnxruntime documentation,
"Quantize ONNX Models").
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ssfer.export.network import INPUT
from ssfer.models.classifier import body_of
from ssfer.models.features import has_patch_tokens

if TYPE_CHECKING:
    import onnx

Way = Literal["static", "dynamic"]
CALIBRATION_FACES, CALIBRATION_BATCH = 256, 32


def way_of(network: nn.Module) -> Way:
    """Return how a network is quantized."""
    return "dynamic" if has_patch_tokens(body_of(network)) else "static"


def quantize(model: onnx.ModelProto, way: Way, faces: NDArray[np.uint8] | None = None) -> onnx.ModelProto:
    """Return the 8-bit model.

    Args:
        faces: crops (N, H, W, 3) of the input size, for a static quantization.
    """
    import onnx
    from onnxruntime import quantization as ort
    from onnxruntime.quantization.shape_inference import quant_pre_process

    common: dict[str, Any] = {"weight_type": ort.QuantType.QInt8, "per_channel": True, "reduce_range": True}
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, out = (str(Path(folder) / f"{name}.onnx") for name in ("source", "prepared", "int8"))
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)  # merges batch norms into convolutions
        if way == "dynamic":
            ort.quantize_dynamic(prepared, out, op_types_to_quantize=["MatMul", "Gemm"], **common)
        else:
            assert faces is not None
            ort.quantize_static(
                prepared,
                out,
                _Calibration(faces),
                quant_format=ort.QuantFormat.QDQ,
                activation_type=ort.QuantType.QUInt8,
                op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool", "MaxPool", "Relu"],
                **common,
            )
        return onnx.load(out)


class _Calibration:
    """Give batches of faces to onnxruntime, as its CalibrationDataReader, which is not imported at module level."""

    def __init__(self, faces: NDArray[np.uint8]) -> None:
        chosen = faces[np.linspace(0, len(faces) - 1, min(len(faces), CALIBRATION_FACES)).astype(int)]
        self._batches = iter(np.array_split(chosen, max(1, len(chosen) // CALIBRATION_BATCH)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}
