"""Weights for RetinaFace from any of the forms in which they go around; nothing but tensors is ever unpickled.

Read are: our own safetensors (`ssfer fetch`), a PyTorch state dict (.pth), and a zip that holds one (the form in which
retinaface-pytorch publishes its ResNet-50). Body and missing tensors are recognised from the names. How pixels are to
be prepared is in our own files; in others it follows from the body or from what its first batch norm saw.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssfer.core import files
from ssfer.core.errors import SsferError
from ssfer.datasets.shared.archives import open_archive
from ssfer.faces.detectors.retinaface_network import (
    BACKBONES,
    MOBILENET,
    PREPROCESS,
    RESNET50,
    expected_shapes,
    is_counter,
)
from ssfer.formats.untrusted import first_line
from ssfer.formats.weights import load_weights, save_weights

KIND = "retinaface"
FOLDER = Path("data/weights/detectors")  # below the project's root
MAX_BYTES = 256 * 2**20  # the largest published file has 110 MB
# One tensor that tells the bodies apart.
_MARKS = {"body.layer1.0.conv1.weight": RESNET50, "body.stage1.0.0.weight": MOBILENET}
# First batch norm's variance per unit of filter energy: about 1 for pixels of unit spread, 58^2 for raw ones.
_RAW_PIXELS = 58.0
_PREFIX = "module."  # of networks saved while they were spread over several GPUs


@dataclass(frozen=True)
class Weights:
    """A complete state dict and how to use it."""

    state: dict[str, Tensor]
    backbone: str
    preprocess: str
    sha256: str  # of the file they came from


def default_path(name: str = "retinaface") -> Path:
    """Return where `ssfer fetch <name>` puts the weights."""
    return files.project_root() / FOLDER / f"{name}.safetensors"


def read_weights(path: Path, sha256: str | None = None) -> Weights:
    """Return the weights in a file.

    Args:
        sha256: hex digest, or the beginning of one, that the file must have.

    Raises:
        SsferError: missing, too large, other hash, more than tensors in it, not RetinaFace, incomplete, not finite.
    """
    if not path.is_file():
        raise SsferError(
            f"no RetinaFace weights at {path}; get them with `ssfer fetch retinaface`, or name a file you have in "
            "align.retinaface_weights"
        )
    if (size := path.stat().st_size) > MAX_BYTES:
        raise SsferError(f"{path} has {size} bytes, expected RetinaFace weights of at most {MAX_BYTES}")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and not digest.startswith(sha256.lower()):
        raise SsferError(f"{path} has sha256 {digest}, expected {sha256}; the file is damaged or another one")
    if path.suffix == ".safetensors":
        state, meta = load_weights(path, KIND)
        backbone, preprocess = str(meta.get("backbone")), str(meta.get("preprocess"))
        if backbone not in BACKBONES or preprocess not in PREPROCESS:
            raise SsferError(
                f"{path} says backbone '{backbone}' and preprocess '{preprocess}', expected one of "
                f"{', '.join(BACKBONES)} and one of {', '.join(PREPROCESS)}"
            )
        return Weights(check_state(state, str(path), backbone), backbone, preprocess, digest)
    state = _tensors(_unwrapped(data, path), path)
    backbone = next((name for mark, name in _MARKS.items() if mark in state), "")
    if not backbone:
        raise SsferError(
            f"{path} is not RetinaFace with a ResNet-50 or MobileNet x0.25 body: expected a tensor "
            f"{' or '.join(_MARKS)}, found {len(state)} others such as {', '.join(list(state)[:2]) or 'none'}"
        )
    state = check_state(state, str(path), backbone)
    return Weights(state, backbone, _preprocess(state, backbone), digest)


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
    for text, names in (("missing", expected.keys() - found.keys()), ("unknown", found.keys() - expected.keys())):
        if names:
            raise SsferError(
                f"{where}: expected the {len(expected)} tensors of RetinaFace with {backbone}, found {len(found)}, "
                f"{len(names)} {text}: {min(names)}{' and others' if len(names) > 1 else ''}"
            )
    for name, shape in expected.items():
        if tuple(found[name].shape) != shape:
            raise SsferError(f"{where}: {name} has shape {tuple(found[name].shape)}, expected {shape} for {backbone}")
        if not found[name].is_floating_point() or not bool(torch.isfinite(found[name]).all()):
            raise SsferError(f"{where}: {name} holds values that are not finite numbers; the file is damaged")
    return {name: found[name].float() for name in expected}


def _unwrapped(data: bytes, path: Path) -> bytes:
    """Return the state dict's file, out of its zip if it is in one; PyTorch's own files are zips, too."""
    if not zipfile.is_zipfile(BytesIO(data)):
        return data
    archive = open_archive(path)
    names = archive.names()
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return data
    if len(names) != 1:
        raise SsferError(f"{path}: expected a zip with one file of weights, found {len(names)} files")
    try:
        return archive.read(names[0])
    except (OSError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise SsferError(f"{path}: its file {names[0]} cannot be unpacked ({error}); download it again") from error


def _tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle fails in any way; none of its code has run
        raise SsferError(
            f"{path} is refused: expected a PyTorch file of tensors only, found something else ({first_line(error)})"
        ) from error
    if not isinstance(loaded, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()
    ):
        raise SsferError(f"{path} is refused: expected a state dict (names and tensors), found {_outline(loaded)}")
    prefixed = bool(loaded) and all(k.startswith(_PREFIX) for k in loaded)
    return {k.removeprefix(_PREFIX) if prefixed else k: v for k, v in loaded.items()}


def _outline(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"a {type(value).__name__}"
    key, other = next((k, v) for k, v in value.items() if not (isinstance(k, str) and isinstance(v, Tensor)))
    return f"a {type(other).__name__} under {key!r}"


def _preprocess(state: Mapping[str, Tensor], backbone: str) -> str:
    """Return how the pixels were prepared in training: the published ResNet-50 files differ in nothing else.

    MobileNet x0.25 exists from one family only, which subtracts the mean. For ResNet-50 the first batch norm knows:
    its running variance is that of the first convolution's output, and pixels in 0..255 give it 58^2 times the
    variance of normalised ones.
    """
    if backbone == MOBILENET:
        return "caffe"
    energy = state["body.conv1.weight"].double().square().sum(dim=(1, 2, 3))
    ratio = float((state["body.bn1.running_var"].double() / energy.clamp_min(1e-12)).median())
    return "caffe" if ratio > _RAW_PIXELS else "imagenet"
