"""`ssfer export`: write one format to a file or folder, and print what was verified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.extras import need
from ssfer.core.files import project_root, write_bytes
from ssfer.export import onnx_int8, onnx_model
from ssfer.export.faces import SplitFaces, accuracies, split_faces
from ssfer.export.network import Exportable, deviation, load_exportable, torch_run

if TYPE_CHECKING:
    import onnx

FOLDER = Path("data/exports")  # in the project's root; data/weights belongs to the stages
SUFFIXES = {"onnx": ".onnx", "timm": "-timm", "mlflow": "-mlflow", "torch": ".pt2"}


def export(
    weights: Path,
    to: str,
    out: Path | None = None,
    *,
    int8: bool = False,
    half: bool = False,
) -> Path:
    """Write weights in another format, print what was verified, and return the path.

    Args:
        weights: .safetensors file of a classifier.
        to: one of SUFFIXES.
        out: file or folder; default: data/exports/<name of the weights> and the format's ending.
        int8: ONNX in 8 bits, see `ssfer.export.onnx_int8`.
        half: ONNX with weights stored as float16.

    Raises:
        SsferError: an unknown format or options that do not fit it, bad weights, a missing package, `out` exists
            already or cannot be written.
    """
    if to not in SUFFIXES:
        raise unknown_name("format", to, SUFFIXES)
    if (int8 or half) and to != "onnx":
        raise SsferError(f"--int8 and --half are of ONNX models, found --to {to}; leave them out")
    if int8 and half:
        raise SsferError("--int8 and --half exclude each other; give one of them")
    kind = ".int8" if int8 else ".half" if half else ""
    out = out or project_root() / FOLDER / f"{weights.stem}{kind}{SUFFIXES[to]}"
    if to == "onnx" and out.suffix != ".onnx":
        raise SsferError(f"--out {out}: expected a name that ends in .onnx, by which ssfer predict knows the format")
    if out.exists():
        raise SsferError(f"{out} exists already; remove it or name another place with --out")
    _check_writable(out)
    exportable = load_exportable(weights)
    if to == "onnx":
        lines = _onnx(exportable, out, int8, half)
    else:
        lines = {"timm": _timm, "mlflow": _mlflow, "torch": _torch}[to](exportable, out)
    for line in lines:
        print(line)
    size = sum(file.stat().st_size for file in (out.rglob("*") if out.is_dir() else [out]) if file.is_file())
    print(f"written: {out} ({size / 1e6:.1f} MB), classes: {', '.join(exportable.meta['classes'])}")
    return out


def _torch(exportable: Exportable, out: Path) -> Iterator[str]:
    from ssfer.export.torch_program import torch_program

    data, found = torch_program(exportable)
    write_bytes(out, data)
    yield _parity(found)


def _timm(exportable: Exportable, out: Path) -> Iterator[str]:
    from ssfer.export.timm_folder import timm_folder

    yield f"largest difference of logits to the weights: {timm_folder(exportable, out):.1e}"
    yield f'timm.create_model("local-dir:{out}", pretrained=True) loads it'


def _mlflow(exportable: Exportable, out: Path) -> Iterator[str]:
    from ssfer.export.mlflow_model import mlflow_model

    mlflow_model(exportable, out)
    yield f"serve it on this machine: mlflow models serve -m {out} --env-manager local -h 127.0.0.1 -p 5001"


def _onnx(exportable: Exportable, out: Path, int8: bool, half: bool) -> Iterator[str]:
    faces = split_faces(exportable.meta)
    if int8:
        need("sympy", "export", "8 bits")
        way = onnx_int8.way_of(exportable.module.network)
        calibration = _calibration(way, faces)
    model, found = onnx_model.onnx_model(exportable)
    yield _parity(found)
    written = model
    if int8:
        written = onnx_int8.quantize(model, way, calibration)
        onnx_model.describe(written, exportable, quantization=way)
        yield f"8 bits, quantized {'statically' if way == 'static' else 'dynamically'}"
    if half:
        written = onnx_model.halve(model)
        onnx_model.describe(written, exportable, weights="float16")
    if written is not model:
        changed = deviation(onnx_model.onnx_run(written), exportable)
        yield f"largest difference of probabilities to torch on noise: {changed:.1e}"
    write_bytes(out, written.SerializeToString())
    yield from _accuracy(exportable, written, faces)


def _calibration(way: onnx_int8.Way, faces: SplitFaces | None) -> NDArray[np.uint8] | None:
    """Return the faces that a network is quantized with, None if it needs none.

    Raises:
        SsferError: it needs some, and there are none.
    """
    if way == "dynamic":
        return None
    found = None if faces is None else faces.crops("labeled", onnx_int8.CALIBRATION_FACES)[0]
    if found is None or len(found) == 0:
        raise SsferError(
            "a convolutional network is quantized with calibration faces, and there are none; run the command in the "
            "project whose split the weights were trained on, or leave --int8 out"
        )
    return found


def _accuracy(exportable: Exportable, written: onnx.ModelProto, faces: SplitFaces | None) -> Iterator[str]:
    """Yield a line with the accuracy on the validation part, or that there is none."""
    crops, labels = faces.crops("valid") if faces is not None else (None, None)
    if crops is None or labels is None or len(crops) == 0:
        yield "accuracy: not measured, the validation part that these weights were selected on is not in this project"
        return
    runs = {"torch": torch_run(exportable.module), "onnx": onnx_model.onnx_run(written)}
    found = accuracies(runs, crops, labels)
    yield (
        f"accuracy on the validation part ({len(crops)} faces): {100 * found['onnx']:.2f} %, "
        f"torch {100 * found['torch']:.2f} %"
    )


def _parity(found: float) -> str:
    return f"largest difference of probabilities to torch, in batches of 1, 3 and 8: {found:.1e}"


def _check_writable(out: Path) -> None:
    """Check that `out` can be written before the export, which takes a while."""
    probe = out.with_name(f".{out.name}.probe")
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SsferError(
            f"{out} cannot be written ({error.strerror or error}); name another place with --out"
        ) from error
