"""Define `ssfer predict` and `ssfer models`; torch is imported when they run, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def predict(
    paths: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="PATH", help="Photos, videos, folders, zip files; -: read a list of them from stdin."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Table to write: .csv, .jsonl or .parquet; replaces an existing file."),
    ] = Path("faces.csv"),
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="MODEL", help="Weights, an ONNX model of ssfer export, or the name of a shipped model."),
    ] = None,
    faces: Annotated[
        str, typer.Option(metavar="WHICH", help="all | largest: one per image | whole: the images are face crops.")
    ] = "all",
    turned: Annotated[
        bool, typer.Option("--turned", help="Also find faces in photos that lie on their side or upside down.")
    ] = False,
    min_face: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0.005, max=1, metavar="SHARE", help="Smallest face, as a share of a photo's longer side."),
    ] = None,
    abstain: Annotated[float, typer.Option(min=0, max=1, help="Faces below this confidence are 'uncertain'.")] = 0.0,
    annotate: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FOLDER", help="Also write copies with boxes, names and bars to this folder."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Videos: use every Nth frame.")] = 1,
    fps: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0.001, help="Videos: use at most this many frames per second."),
    ] = None,
    smooth: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Videos: average predictions along each face's track; 0: off."),
    ] = 0.0,
    camera: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, metavar="NUMBER", help="Read this camera instead of files, until Ctrl-C."),
    ] = None,
    seconds: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0, help="Camera: stop after this time."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue where the same command was interrupted.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    runtime: Annotated[str, typer.Option(help="torch or onnx; auto: by the file's name.")] = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 32,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            metavar="N",
            help="Processes for photos on a CPU; default: one per CPU for 1,000 and more, else threads.",
        ),
    ] = None,
) -> None:
    """Find the faces in photos and videos and write a table of their expressions, one row per face.

    Columns: input, frame, time (s), track, face, status, expression, confidence, a probability p_CLASS per class, the
    detector's score, box (x1 y1 x2 y2) and five landmarks in pixels. An image without a face has one row whose status
    says why: no_face, unreadable, empty, float_pixels, too_large, too_small, missing, broken_link, refused (a zip
    file), no_frames.

    An expression is what a face shows, not what a person feels; do not use it for decisions about people.

    \b
    Examples:
      ssfer predict photos/ --out faces.csv
      ssfer predict clip.mp4 --fps 5 --smooth 0.5 --annotate seen    needs the extra 'video'
      find . -name '*.jpg' | ssfer predict - --out faces.parquet
      ssfer predict photos/ --model data/weights/model.safetensors --abstain 0.5
      ssfer predict --camera 0

    Exit status: 0, or 2 with one line on stderr that says what is wrong.
    """
    from ssfer.core.process import stage_main
    from ssfer.predict.kernel_cache import bound_kernel_cache

    def run() -> None:
        from ssfer.core.errors import SsferError, printable

        if (camera is None) == (not paths):
            raise SsferError("expected PATHs or --camera NUMBER, one of the two; see ssfer predict --help")
        if camera is not None and (resume or workers or every != 1 or fps is not None):
            raise SsferError("--camera takes no --resume, --workers, --every and --fps; leave them out")
        if camera is None and seconds is not None:
            raise SsferError("--seconds is for --camera; leave it out")
        bound_kernel_cache()
        from ssfer.predict.recognizer import Options
        from ssfer.predict.run import Job, predict_camera, predict_paths
        from ssfer.predict.video import camera_frames

        options = Options(faces, abstain, smooth, batch)  # type: ignore[arg-type]
        job = Job(model, device, runtime, options, every, fps, annotate, turned or None, min_face)
        recognizer = job.recognizer()
        print(f"model {recognizer.name}: {', '.join(recognizer.classes)}", flush=True)
        summary = (
            predict_paths(job, paths or [], out, resume=resume, workers=workers)
            if camera is None
            else predict_camera(job, camera_frames(camera, seconds), out)
        )
        if summary is None:
            told = "no command that wrote it was interrupted, so it stays as it is; without --resume it is made anew"
            print(printable(f"{out} is there, and {told}"))
        else:
            print(printable("\n".join([*summary.lines(), f"table: {out}"])))

    stage_main("ssfer predict", run, again="repeat the command with --resume to continue")


def models() -> None:
    """List the models that come with this package (size, classes, the default one), and what can be fetched."""
    from ssfer.core.process import stage_main

    def run() -> None:
        from ssfer.cli.fetch import PUBLISHED
        from ssfer.predict.shipped_models import describe

        print("\n".join(describe()))
        print(f"no other model can be fetched; for training, ssfer fetch has {', '.join(sorted(PUBLISHED))}")

    stage_main("ssfer models", run)
