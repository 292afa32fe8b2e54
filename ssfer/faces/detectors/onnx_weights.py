"""RetinaFace's MobileNet weights out of an ONNX model, read from the bytes: no ONNX package, no code is run.

ONNX is protocol buffers: a message is a row of (key, value), key = field number * 8 + wire type. Field numbers are
those of the ONNX specification (onnx.proto). The converter that wrote the model multiplied each batch norm into the
convolution before it, so each convolution comes out with a batch norm that only adds the bias.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_FLOAT = 1  # TensorProto.DataType
_BATCH_NORM_EPS = 1e-5
_HEADS = {"class_head": "ClassHead", "bbox_head": "BboxHead", "landmark_head": "LandmarkHead"}


def model_in_python_source(source: bytes) -> bytes:
    """Return the bytes literal of a module that says `WEIGHTS = b"..."` and nothing else; it is parsed, not run.

    Raises:
        ValueError: anything else is in it.
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
        ValueError: no ONNX, or another network; the message says what is wrong.
    """
    graphs = [value for number, value in _fields(model) if number == 7 and isinstance(value, bytes)]  # ModelProto
    if len(graphs) != 1:
        raise ValueError(f"no ONNX model: expected one graph, found {len(graphs)}")
    tensors: dict[str, np.ndarray] = {}
    nodes: list[tuple[str, list[str]]] = []
    for number, value in _fields(graphs[0]):  # GraphProto
        if number == 5 and isinstance(value, bytes):
            name, array = _tensor(value)
            tensors[name] = array
        elif number == 1 and isinstance(value, bytes):
            nodes.append(_node(value))
    state: dict[str, Tensor] = {}
    for name, inputs in nodes:
        module = _module_of(name)
        if module is None:
            continue
        if len(inputs) != 3 or not all(i in tensors for i in inputs[1:]):
            raise ValueError(f"convolution '{name}' has no stored weight and bias")
        weight, bias = (torch.from_numpy(tensors[i].copy()) for i in inputs[1:])
        state[f"{module}.weight"] = weight
        state |= {f"{module}.bias": bias} if module.endswith("conv1x1") else _norm_that_adds(module, bias)
    return state


def _module_of(node: str) -> str | None:
    """Return the name of a convolution in our network from that of its node (the path of modules), None for others."""
    *path, kind = node.strip("/").split("/")
    if kind != "Conv" or not path or not path[-1].rpartition(".")[2].isdigit():  # '.0_1': a second use of the same
        return None
    first, last = path[0], path[-1]
    if first in _HEADS:
        return f"{_HEADS[first]}.{last.rpartition('.')[2]}.conv1x1"
    if first == "fx":  # stage.block.0, or stage.block.half.0 in depthwise blocks, whose halves we number through
        stage, block, *rest = last.split(".")
        return f"body.{stage}.{block}.{3 * int(rest[0]) if len(rest) > 1 else 0}"
    return f"{first}.{last}"


def _norm_that_adds(module: str, bias: Tensor) -> dict[str, Tensor]:
    """Return the tensors of the batch norm after a convolution that adds `bias` and does nothing else."""
    parent, _, index = module.rpartition(".")
    ones, zeros = torch.ones_like(bias), torch.zeros_like(bias)
    values = {"weight": ones, "bias": bias, "running_mean": zeros, "running_var": ones - _BATCH_NORM_EPS}
    return {f"{parent}.{int(index) + 1}.{leaf}": value for leaf, value in values.items()}


def _node(data: bytes) -> tuple[str, list[str]]:
    """Return name and inputs of a NodeProto."""
    name, inputs = "", []
    for number, value in _fields(data):
        if isinstance(value, bytes) and number == 1:
            inputs.append(value.decode())
        elif isinstance(value, bytes) and number == 3:
            name = value.decode()
    return name, inputs


def _tensor(data: bytes) -> tuple[str, np.ndarray]:
    """Return name and values of a TensorProto that holds float32 as raw bytes; other types come back empty."""
    name, shape, kind, raw = "", list[int](), 0, b""
    for number, value in _fields(data):
        if isinstance(value, int):
            if number == 1:
                shape.append(value)
            elif number == 2:
                kind = value
        elif number == 8:
            name = value.decode()
        elif number == 9:
            raw = value
    if kind != _FLOAT:
        return name, np.zeros(0, np.float32)
    if len(raw) != 4 * math.prod(shape):
        raise ValueError(
            f"tensor '{name}' of shape {tuple(shape)} has {len(raw)} bytes, expected {4 * math.prod(shape)}"
        )
    return name, np.frombuffer(raw, "<f4").reshape(shape).astype(np.float32)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of a message: an int for varints, bytes for everything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at} does not exist in protocol buffers")
        if length > len(data) - at:
            raise ValueError(f"a field of {length} bytes at byte {at} leads out of its message of {len(data)} bytes")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place and the place after it: seven bits a byte, lowest first, at most ten bytes."""
    value = 0
    for i in range(10):
        if at + i >= len(data):
            break
        value |= (data[at + i] & 0x7F) << (7 * i)
        if data[at + i] < 0x80:
            return value, at + i + 1
    raise ValueError(f"the number at byte {at} does not end")
