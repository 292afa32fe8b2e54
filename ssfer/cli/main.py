"""Define the command line: `ssfer COMMAND` or `python -m ssfer COMMAND`, in a project's folder.

Heavy packages are imported inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from ssfer import __version__
from ssfer.cli.app import app as open_page
from ssfer.cli.compare import compare
from ssfer.cli.complexity import complexity
from ssfer.cli.export import export
from ssfer.cli.figure import figure
from ssfer.cli.predict import models, predict
from ssfer.cli.project import LABELS_HELP, PASSED_ON, init, label_words, params, profile, report, run_stage
from ssfer.cli.search import search_app
from ssfer.cli.tables import experiments_app
from ssfer.cli.weights import weights_app
from ssfer.core.files import project_root
from ssfer.core.process import set_environment

app = typer.Typer(
    name="ssfer",
    help="Semi-supervised facial expression recognition.",
    epilog="Examples: ssfer doctor data/raw/ferplus   |   ssfer fetch retinaface   |   training: dvc repro",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

app.add_typer(weights_app)
app.add_typer(experiments_app)
app.add_typer(search_app)
app.command()(compare)
app.command()(complexity)
app.command()(init)
app.command(add_help_option=False, context_settings=PASSED_ON)(profile)
app.command()(params)
app.command(name="run")(run_stage)
app.command()(report)
app.command()(figure)
app.command()(export)
app.command()(models)
app.command()(predict)
app.command(name="app")(open_page)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ssfer {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def doctor(
    paths: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Argument(
            metavar="[PATH]...", help="Folders, zips, tables, .rec files; none: the sources of params.yaml."
        ),
    ] = None,
    profile: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="NAME", help="Without PATH: the sources with this profile merged in; repeat it."),
    ] = None,
    kind: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Take every PATH for this kind of data set instead of recognizing it."),
    ] = None,
    labels: Annotated[str, typer.Option(metavar="WORD=CLASS,...", help=LABELS_HELP)] = "",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    scan: Annotated[
        bool, typer.Option("--scan/--no-scan", help="Read every image; without: names and counts only.")
    ] = True,
    examples: Annotated[int, typer.Option(min=0, help="File names listed per finding.")] = 3,
    near_bits: Annotated[
        int, typer.Option(min=0, max=16, help="Perceptual hashes that differ in at most so many of 64 bits ...")
    ] = 8,
    correlation: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="... and pictures that, registered, correlate at least so much are near copies."
        ),
    ] = 0.85,
    faces: Annotated[
        int, typer.Option(min=0, help="Most images in which faces are detected, for mirrored, turned, cropped copies.")
    ] = 5_000,
    workers: Annotated[str, typer.Option(metavar="N|auto", help="Processes that read; auto: one per CPU.")] = "auto",
    machine: Annotated[
        bool, typer.Option("--machine", help="Instead of data: what computes here and how fast training steps are.")
    ] = False,
) -> None:
    """Say which data sets these are, whether they are complete, and which images occur twice.

    Reads only: no image is written or sent anywhere. Shown are the data set and its form, images by class against the
    published numbers, terms of use, damaged files, exact and near copies inside a part, between training and test, and
    between data sets (folders data/faces/* and data/corpus of this project included), and copies whose labels differ.

    \b
    Exit status:
      0  nothing, or remarks only
      1  warnings: damaged files, repeated images, labels that differ between copies, unknown files
      2  errors: test images among training images, counts that are not the published ones, a class
         without images, nothing readable; also when doctor cannot work at all (one line on stderr)

    \b
    Examples:
      ssfer doctor                                      the sources of this project
      ssfer doctor --profile ferplus                    those of a profile
      ssfer doctor ~/Downloads/basic                    one data set
      ssfer doctor FER2013Train.zip FER2013Valid.zip    parts of one data set
      ssfer doctor data/raw/rafdb data/corpus           are RAF-DB's test images in the corpus?
      ssfer doctor photos --kind identities             photos that are not recognized
      ssfer doctor data/raw/ferplus --json > ferplus.json
      ssfer doctor --machine                            driver, GPUs, compiler, memory; 20 steps of each stage

    The keys of --json are listed in ssfer/doctor/json_report.py. Its 32 px pictures of all images need 1 KB each in the
    folder for temporary files (TMPDIR) while it runs.
    """
    from ssfer.core.process import stage_main

    def look_at_machine() -> None:
        from ssfer.cli.machine import show_machine
        from ssfer.config.schema import load_params
        from ssfer.core.errors import SsferError

        given = [*(paths or []), *(profile or []), kind, labels, "--json" if json else ""]
        if of_data := next(filter(None, given), None):
            raise SsferError(f"--machine looks at no data; leave out {of_data} or --machine")
        if status := show_machine(load_params()):
            raise typer.Exit(status)

    def run() -> None:
        from ssfer.cli.doctor import run_doctor
        from ssfer.doctor.examination import Settings

        options = (kind, scan, near_bits, correlation, _worker_count(workers), examples, faces, label_words(labels))
        status = run_doctor(paths or [], profile or [], Settings(*options), as_json=json)
        if status:
            raise typer.Exit(status)

    stage_main("ssfer doctor", look_at_machine if machine else run)


@app.command()
def fetch(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="retinaface, retinaface-mobilenet, clip, or a network such as resnet18."),
    ],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="File to write; default: in data/weights."),
    ] = None,
    sha256: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="HEX", help="Expect this sha256 instead of the built-in one."),
    ] = None,
    file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Use this copy of the published file instead of downloading it."),
    ] = None,
) -> None:
    """Download published weights, verify them, and keep them as safetensors.

    NAME is a face detector, CLIP, or a network that rows of `ssfer experiments` start from; an unknown NAME prints the
    list. Size, license and sha256 are printed. A file with another hash is refused. CLIP's text encoder is for
    methods.sitfer.text.encoder open_clip; the settings to use it are printed.

    \b
    Examples:
      ssfer fetch retinaface
      ssfer fetch retinaface --file retinaface_resnet50.zip    a machine without network
      ssfer fetch clip --sha256 HEX    only a file with this hash, for example a colleague's

    Exit status: 0, or 2 with one line on stderr that says what is wrong.
    """
    from ssfer.core.process import stage_main

    def run() -> None:
        from ssfer.cli.fetch import fetch as fetch_weights

        fetch_weights(name, out, sha256=sha256, file=file)

    stage_main("ssfer fetch", run)


def _worker_count(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"expected a number of at least 1 or 'auto', found '{text}'", param_hint="--workers")
    return int(text)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a file name that the terminal cannot show must not stop a command
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # names of a list on stdin need not be UTF-8
    _run_code_of_the_project()
    set_environment()
    app(prog_name="ssfer")


def _run_code_of_the_project() -> None:
    """In a checkout other than the one this command was installed from, run that checkout's code, as its stages do."""
    root = project_root()
    code = root / "ssfer/__init__.py"
    if not (root / "params.yaml").is_file() or not code.is_file():
        return
    if not code.samefile(Path(__file__).parents[1] / "__init__.py"):
        paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-P", "-m", "ssfer", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": paths})
