"""RetinaFace's MobileNet weights from an ONNX model, with the optional package onnx; no code of the file is run.

The converter that wrote the model folded each batch norm into the convolution before it. So each convolution is
returned with a batch norm that only adds the bias.
"""

from __future__ import annotations

import ast

import torch
from torch import Tensor

from ssfer.core.extras import need

_BATCH_NORM_EPS = 1e-5
_HEADS = {"class_head": "ClassHead", "bbox_head": "BboxHead", "landmark_head": "LandmarkHead"}


def model_in_python_source(source: bytes) -> bytes:
    """Return the bytes literal of a module that contains only `WEIGHTS = b"..."`; it is parsed, not run.

    Raises:
        ValueError: it contains anything else.
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"no Python source: {error}") from error
    if len(body) == 1 and isinstance(body[0], ast.Assign) and isinstance(body[0].value, ast.Constant):
        value = body[0].value.value
        if isinstance(value, bytes):
            return value
    raise ValueError(f"expected one bytes literal, found {len(body)} statements")


def mobilenet_state(model: bytes) -> dict[str, Tensor]:
    """Return the state dict of RetinaFace with MobileNet x0.25 from an ONNX model.

    Raises:
        SsferError: the package onnx is not installed.
        ValueError: not an ONNX model, or another network; the message says what is wrong.
    """
    need("onnx", "export", "reading an ONNX model")
    import onnx  # an optional extra
    from onnx.external_data_helper import uses_external_data

    try:
        graph = onnx.load_model_from_string(model).graph
        tensors = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
        if any(map(uses_external_data, tensors.values())):
            raise ValueError("its tensors lie in other files")
        arrays = {name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for name, t in tensors.items()}
    except Exception as error:  # protobuf's own classes of exceptions differ between its versions
        raise ValueError(f"no ONNX model: {error}") from error
    state: dict[str, Tensor] = {}
    for node in graph.node:
        module = _module_of(node.name)
        if module is None:
            continue
        if len(node.input) != 3 or not all(name in arrays for name in node.input[1:]):
            raise ValueError(f"convolution '{node.name}' has no stored weight and bias")
        weight, bias = (arrays[name] for name in node.input[1:])
        state[f"{module}.weight"] = weight
        state |= {f"{module}.bias": bias} if module.endswith("conv1x1") else _norm_that_adds(module, bias)
    return state


def _module_of(node: str) -> str | None:
    """Return the name of a convolution in our network from its node's name (the path of modules); None for others."""
    *path, kind = node.strip("/").split("/")
    if kind != "Conv" or not path or not path[-1].rpartition(".")[2].isdigit():  # '.0_1': a second use of the same
        return None
    first, last = path[0], path[-1]
    if first in _HEADS:
        return f"{_HEADS[first]}.{last.rpartition('.')[2]}.conv1x1"
    if first == "fx":  # stage.block.0, or stage.block.half.0 in depthwise blocks, whose halves we number on
        stage, block, *rest = last.split(".")
        return f"body.{stage}.{block}.{3 * int(rest[0]) if len(rest) > 1 else 0}"
    return f"{first}.{last}"


def _norm_that_adds(module: str, bias: Tensor) -> dict[str, Tensor]:
    """Return the tensors of the batch norm after a convolution that adds `bias` and does nothing else."""
    parent, _, index = module.rpartition(".")
    ones, zeros = torch.ones_like(bias), torch.zeros_like(bias)
    values = {"weight": ones, "bias": bias, "running_mean": zeros, "running_var": ones - _BATCH_NORM_EPS}
    return {f"{parent}.{int(index) + 1}.{leaf}": value for leaf, value in values.items()}
