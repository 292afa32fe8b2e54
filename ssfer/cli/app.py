"""Define the command `ssfer app`; torch is imported when it runs, so that --help answers at once."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def app(
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="MODEL", help="Weights, an ONNX model of ssfer export, or the name of a shipped model."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any free port.")] = 7861,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Serve a page for photos, webcam and videos, and a REST endpoint, on 127.0.0.1.

    Images are processed in memory and not stored; nothing leaves this computer. Other computers cannot reach the page;
    to use it from one, open a tunnel there: ssh -L 7861:127.0.0.1:7861 HOST.

    \b
    Examples:
      ssfer app
      ssfer app data/weights/model.safetensors --port 8000
      curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" http://127.0.0.1:7861/predict

    Exit status: 0 after Ctrl-C, or 2 with one line on stderr that says what is wrong.
    """
    from ssfer.core.process import stage_main
    from ssfer.predict.kernel_cache import bound_kernel_cache

    def run() -> None:
        from ssfer.core.extras import need

        for package in ("fastapi", "uvicorn"):
            need(package, "app", "ssfer app")
        bound_kernel_cache()
        from ssfer.app.recognition import Recognition
        from ssfer.app.server import serve
        from ssfer.predict.recognizer import load

        recognizer = load(model, device=device)
        print(f"model {recognizer.name}: {', '.join(recognizer.classes)}", flush=True)
        serve(Recognition(recognizer), port)

    stage_main("ssfer app", run)
