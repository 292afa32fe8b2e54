"""Define the command `ssfer export`; torch is imported when it runs, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def export(
    weights: Annotated[
        Path,
        typer.Argument(metavar="WEIGHTS", help="A .safetensors file of a classifier, or the name of a shipped model."),
    ],
    to: Annotated[str, typer.Option(metavar="FORMAT", help="onnx, timm, mlflow or torch.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="PATH", help="Where to write; default: data/exports/<name of the weights>..."),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="onnx: quantize to 8 bits.")] = False,
    half: Annotated[bool, typer.Option("--half", help="onnx: store weights as float16; compute in float32.")] = False,
) -> None:
    """Write a trained classifier in another format, and verify it there.

    \b
    Formats:
      onnx    one file for onnxruntime; ssfer predict --model FILE.onnx uses it
      timm    a folder for timm.create_model("local-dir:FOLDER", pretrained=True)
      mlflow  a folder for `mlflow models serve`: photos in, a row per face out
      torch   a torch.export program (.pt2)

    ONNX models and torch programs take uint8 RGB face crops (N, size, size, 3) and return probabilities (N, classes):
    mean, std and temperature are applied inside. Classes, input size and crop recipe are in their metadata.

    With --int8, convolutional networks are calibrated with the labeled faces of the project's split. In the project
    in which the weights were trained, the accuracy on the validation part is printed.

    \b
    Examples:
      ssfer export data/weights/semisup/student_last.safetensors --to onnx
      ssfer export data/weights/semisup/student_last.safetensors --to onnx --int8 --out student.onnx

    Exit status: 0, or 2 with one line on stderr that says what is wrong.
    """
    from ssfer.core.process import stage_main

    def run() -> None:
        from ssfer.export.write import export as write
        from ssfer.predict.shipped_models import find_model

        write(find_model(weights), to, out, int8=int8, half=half)

    stage_main("ssfer export", run)
