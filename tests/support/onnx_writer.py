"""An ONNX model of RetinaFace with MobileNet as PyTorch's exporter writes it, encoded from ONNX's specification."""

from __future__ import annotations

import torch
from torch import Tensor

from ssfer.faces.detectors.retinaface_network import MOBILENET, build_network


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: str, value: Tensor) -> bytes:
    shape = b"".join(field(1, side) for side in value.shape)
    return field(5, shape + field(2, 1) + field(8, name.encode()) + field(9, value.numpy().tobytes()))


def node(kind: str, name: str, inputs: list[str]) -> bytes:
    joined = b"".join(field(1, i.encode()) for i in inputs)
    return field(1, joined + field(2, b"y") + field(3, name.encode()) + field(4, kind.encode()))


def node_name(module: str) -> str:
    """Return the exporter's name of a convolution: the path of modules, each with its full name."""
    first, *rest = module.split(".")
    if first.endswith("Head"):
        kind = {"ClassHead": "class_head", "BboxHead": "bbox_head", "LandmarkHead": "landmark_head"}[first]
        return f"/{kind}/{kind}.{rest[0]}/Conv"
    if first == "body":
        stage, block, index = rest
        if (stage, block) == ("stage1", "0"):
            return f"/fx/{stage}/{stage}.0/{stage}.0.{index}/Conv"
        half = f"{stage}.{block}.{int(index) // 3}"
        return f"/fx/{stage}/{stage}.{block}/{half}/{half}.0/Conv"
    return f"/{first}/{rest[0]}/{rest[0]}.{rest[1]}/Conv"


def onnx_model(state: dict[str, Tensor]) -> bytes:
    """Return the model of a network whose batch norms are multiplied into its convolutions."""
    parts = b""
    for name, module in build_network(state, MOBILENET, "imagenet").named_modules():
        if isinstance(module, torch.nn.Conv2d):
            assert module.bias is not None
            parts += tensor(f"{name}.w", module.weight.contiguous()) + tensor(f"{name}.b", module.bias)
            parts += node("Conv", node_name(name), ["x", f"{name}.w", f"{name}.b"])
    # What else is in such a graph: other operations, whole numbers, a module used twice.
    parts += node("Relu", "/ssh1/Relu", ["y"]) + node("Conv", "/ssh1/conv5X5_1/conv5X5_1.0_1/Conv", ["y", "z1", "z2"])
    parts += field(5, field(1, 2) + field(2, 7) + field(8, b"axes") + field(9, b"\0" * 16))
    return field(1, 8) + field(2, b"pytorch") + field(7, parts) + field(8, field(2, 11))
