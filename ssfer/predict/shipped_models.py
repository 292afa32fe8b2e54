"""Find the models that come with the package by name: models/<name>.safetensors."""

from __future__ import annotations

from pathlib import Path

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.places import WEIGHTS
from ssfer.core.shipped import shipped
from ssfer.formats.weights import load_weights

DEFAULT = "ferplus-small"
_SUFFIXES = {"torch": (".safetensors",), "onnx": (".onnx",)}


def model_files(runtime: str = "torch") -> dict[str, Path]:
    """Return name -> file of the shipped models that a runtime can read, sorted by name."""
    suffixes = _SUFFIXES.get(runtime, (".safetensors",))
    return {path.stem: path for path in sorted(shipped("models").glob("*")) if path.suffix in suffixes}


def find_model(weights: str | Path | None = None, runtime: str = "torch") -> Path:
    """Return the file of some weights.

    Args:
        weights: a path, or the name of a shipped model; None: the default one.
        runtime: that will read it.

    Raises:
        SsferError: neither a file nor a shipped model; the message lists these.
    """
    files = model_files(runtime)
    name = DEFAULT if weights is None else str(weights)
    if weights is not None and (Path(weights).is_file() or Path(weights).suffix or len(Path(weights).parts) > 1):
        path = Path(weights)
        if path.is_dir():
            raise SsferError(f"{path} is a folder; name a weights file in it")
        if path.suffix == ".onnx" and runtime == "torch":
            raise SsferError(f"{path} is an ONNX model; use runtime onnx or auto, or name its .safetensors file")
        if not path.is_file():
            raise SsferError(
                f"there are no weights at {path}; expected a file, or the name of a shipped model "
                f"({', '.join(files) or 'there is none yet'})"
            )
        return path
    if name in files:
        return files[name]
    if weights is None or not files:
        raise SsferError(
            f"no model '{name}' ships with this version (ssfer models lists what does); name weights of your own, such "
            f"as {WEIGHTS / 'model.safetensors'}, which dvc repro evaluate writes"
        )
    raise unknown_name("model", name, files)


def describe() -> list[str]:
    """Return one line per shipped model: name, sizes in MB, whether it is the default, classes; or that there is none.

    Raises:
        SsferError: a damaged file.
    """
    lines, onnx = [], model_files("onnx")
    for name, path in model_files().items():
        _, meta = load_weights(path)
        more = f", as ONNX {onnx[name].stat().st_size / 1e6:.1f} MB" if name in onnx else ""
        more += ", default" if name == DEFAULT else ""
        lines.append(f"{name}: {path.stat().st_size / 1e6:.1f} MB{more}; {', '.join(meta['classes'])}")
    own = WEIGHTS / "model.safetensors"
    return lines or [f"no model ships with this version; name weights of your own, such as {own}"]
