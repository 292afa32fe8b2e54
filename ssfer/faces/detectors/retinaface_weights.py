"""Weights of RetinaFace in any published form; only tensors are ever unpickled.

It reads our own safetensors (`ssfer fetch`), a PyTorch state dict (.pth), and a zip with one (as retinaface-pytorch
publishes its ResNet-50). Backbone and missing tensors are recognized from the names. Our own files store how to
preprocess pixels; for others it follows from the backbone or from the running variance of its first batch norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ssfer.core import files
from ssfer.core.errors import SsferError
from ssfer.faces.detectors.retinaface_network import (
    BACKBONES,
    MOBILENET,
    PREPROCESS,
    RESNET50,
    expected_shapes,
    is_counter,
)
from ssfer.formats.checkpoints import read_checkpoint
from ssfer.formats.untrusted import file_size
from ssfer.formats.weights import check_finite, check_tensors, save_weights

KIND = "retinaface"
FOLDER = Path("data/weights/detectors")  # below the project's root
MAX_BYTES = 256 * 2**20  # the largest published file has 110 MB
# One tensor that occurs in only one of the backbones.
_MARKS = {"body.layer1.0.conv1.weight": RESNET50, "body.stage1.0.0.weight": MOBILENET}
# First batch norm's variance per unit of filter energy: about 1 for pixels of unit spread, 58^2 for raw ones.
_RAW_PIXELS = 58.0


@dataclass(frozen=True)
class Weights:
    """A complete state dict, and the backbone and preprocessing that it belongs to."""

    state: dict[str, Tensor]
    backbone: str
    preprocess: str
    sha256: str  # of the file they came from


def default_path(name: str = "retinaface") -> Path:
    """Return where `ssfer fetch <name>` puts the weights."""
    return files.project_root() / FOLDER / f"{name}.safetensors"


def check_is_file(path: Path) -> None:
    """Raise SsferError if the weights are missing; at the path of `ssfer fetch` it says what to fetch."""
    if not path.is_file():
        name = next((n for n in ("retinaface-mobilenet",) if path.name == default_path(n).name), "retinaface")
        raise SsferError(
            f"no RetinaFace weights at {path}; get them with `ssfer fetch {name}`, or name a file you have in "
            "detectors.retinaface.weights"
        )


def read_weights(path: Path, sha256: str | None = None) -> Weights:
    """Return the weights in a file.

    Args:
        sha256: hex digest, or the beginning of one, that the file must have.

    Raises:
        SsferError: missing, too large, other hash, more than tensors in it, not RetinaFace, incomplete, not finite.
    """
    check_is_file(path)
    file_size(path, MAX_BYTES)
    if sha256 is not None and not (digest := files.sha256_file(path)).startswith(sha256.lower()):
        raise SsferError(f"{path} has sha256 {digest}, expected {sha256}; the file is damaged or another one")
    file = read_checkpoint(path, marks=tuple(_MARKS), network=f"RetinaFace ({' or '.join(BACKBONES)})", most=MAX_BYTES)
    backbone = next(name for mark, name in _MARKS.items() if mark in file.state)
    if not file.meta:
        state = check_state(file.state, str(path), backbone)
        return Weights(state, backbone, _preprocess(state, backbone), file.sha256)
    kind, backbone, preprocess = (str(file.meta.get(name)) for name in ("kind", "backbone", "preprocess"))
    if kind != KIND or backbone not in BACKBONES or preprocess not in PREPROCESS:
        raise SsferError(
            f"{path} says kind '{kind}', backbone '{backbone}' and preprocess '{preprocess}', expected '{KIND}', one "
            f"of {', '.join(BACKBONES)} and one of {', '.join(PREPROCESS)}"
        )
    return Weights(check_state(file.state, str(path), backbone), backbone, preprocess, file.sha256)


def write_weights(path: Path, weights: Weights, meta: Mapping[str, Any]) -> None:
    """Write our own form, atomically; `meta` says where the weights come from."""
    own = {"kind": KIND, "backbone": weights.backbone, "preprocess": weights.preprocess}
    save_weights(path, weights.state, {**meta, **own, "source_sha256": weights.sha256})


def check_state(state: Mapping[str, Tensor], where: str, backbone: str) -> dict[str, Tensor]:
    """Return the tensors of a state dict that inference needs, as float32.

    Raises:
        SsferError: names or shapes are not those of the network, or a value is not finite.
    """
    expected = expected_shapes(backbone)
    found = {k: v for k, v in state.items() if not is_counter(k)}
    check_tensors(found, expected, f"{where}, as RetinaFace with {backbone}")
    check_finite(found, where)
    return {name: found[name].float() for name in expected}


def _preprocess(state: Mapping[str, Tensor], backbone: str) -> str:
    """Return the preprocessing of pixels in training: the published ResNet-50 files differ in nothing else.

    All published MobileNet x0.25 files subtract the mean. For ResNet-50 the first batch norm tells: its running
    variance is that of the first convolution's output, and pixels in 0..255 give 58^2 times the variance of normalized
    ones.
    """
    if backbone == MOBILENET:
        return "caffe"
    energy = state["body.conv1.weight"].double().square().sum(dim=(1, 2, 3))
    ratio = float((state["body.bn1.running_var"].double() / energy.clamp_min(1e-12)).median())
    return "caffe" if ratio > _RAW_PIXELS else "imagenet"
