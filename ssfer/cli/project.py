"""Define `ssfer init`, `profile`, `params`, `run` and `report`: a project, its settings, its stages.

Heavy packages are imported inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from ssfer import __version__

LABELS_HELP = "What words or numbers of a table or of class folders mean: 0=anger,1=happiness,8=null (left out)."
# For `profile`, which parses its own arguments.
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def profile(context: typer.Context) -> None:
    """Print profiles as flags for `dvc exp run`, run them, show them, or merge them into params.yaml."""
    from ssfer.config.profile_options import parser
    from ssfer.core.process import stage_main

    def run() -> None:
        if {"-h", "--help"} & set(context.args):
            parser().print_help()
            return
        from ssfer.config.profiles import main

        main(context.args)

    stage_main("ssfer profile", run)


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An empty or a new folder.")],
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="PATH", help="A labeled data set; it is linked and its settings go to params.yaml."),
    ] = None,
    kind: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Kind of data set of --data, such as class_folders; default: recognize it."),
    ] = None,
    labels: Annotated[str, typer.Option(metavar="WORD=CLASS,...", help=LABELS_HELP)] = "",
) -> None:
    """Make a project: params.yaml, dvc.yaml and the stages, ready for `dvc repro`.

    \b
    Examples:
      ssfer init fer && cd fer && ssfer run          the demo, on rendered faces
      ssfer init mine --data ~/faces               a run on photos in folders named by class

    Exit status: 0, or 2 with one line on stderr that says what is wrong; then nothing was written.
    """
    from ssfer.core.process import stage_main

    def run() -> None:
        from ssfer.core.errors import SsferError, printable
        from ssfer.project.new import new_project, set_data

        if data is None:
            if kind or labels:
                raise SsferError(f"{'--kind' if kind else '--labels'} is about a data set; name it with --data")
            git = new_project(folder)
        else:
            from ssfer.doctor.entry import use_of_path

            if data.is_dir() and folder.resolve().is_relative_to(data.resolve()):
                raise SsferError(f"{folder} lies in the data set {data}, which it would become a part of; name another")
            use = use_of_path(data, kind, label_words(labels))
            git = new_project(folder, lambda made: set_data(made, use.place, use.raw, use.settings))
            for remark in use.remarks:
                print(printable(remark))
        print(f"{folder} is a project of ssfer {__version__}; next: cd {shlex.quote(str(folder))} && ssfer run")
        if not str(path := folder.resolve()).isascii():
            print(
                f"WARNING: DVC cannot run experiments (ssfer experiments, dvc exp run --temp) below {path}, because "
                "the path has characters other than ASCII ones; to use them, move or rename the folder"
            )
        if not git:
            print("`dvc exp run` needs git; to add it later: git init && dvc config --unset core.no_scm")

    stage_main("ssfer init", run)


def label_words(text: str) -> dict[str, str | None]:
    """Return word -> class name, None for null, of `0=anger,8=null`.

    Raises:
        SsferError: written otherwise.
    """
    from ssfer.core.errors import SsferError

    found: dict[str, str | None] = {}
    for part in text.split(",") if text else ():
        word, equals, name = (piece.strip() for piece in part.partition("="))
        if not (word and equals and name) or word in found:
            raise SsferError(
                f"expected --labels as in 0=anger,1=happiness,8=null, found '{part}'; write each word once"
            )
        found[word] = None if name == "null" else name
    return found


def run_stage(
    stage: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[STAGE]", help="A stage of dvc.yaml, such as semisup."),
    ] = None,
    extra: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("-S", metavar="KEY=VALUE", help="Run a DVC experiment with this setting; repeat it for several."),
    ] = None,
) -> None:
    """Run the outdated stages of the pipeline, or one STAGE even if it is up to date.

    Without STAGE this is `dvc repro log`, with -S `dvc exp run log -S ...`. DVC does not know the result of a STAGE
    until `dvc commit STAGE`; without that the next `dvc repro` runs the stage again.

    \b
    Examples:
      ssfer run
      ssfer run -S split.labeled_fraction=0.05
      ssfer run semisup
      ssfer run evaluate && dvc commit evaluate
    """
    from ssfer.core.process import CONTINUES, stage_main

    def run() -> None:
        from ssfer.config.pipeline import run_pipeline
        from ssfer.core.errors import SsferError, unknown_name
        from ssfer.core.places import STAGES

        if stage is None:
            raise typer.Exit(run_pipeline(extra or ()))
        if extra:
            raise SsferError("-S works only for the whole pipeline: leave STAGE out, or change params.yaml")
        if stage not in STAGES:
            raise unknown_name("stage", stage, STAGES)
        _stage(stage)

    stage_main("ssfer run", run, CONTINUES)


def report() -> None:
    """Rebuild the results page and the model card, and print their paths; the same as `ssfer run report`."""
    from ssfer.core.process import stage_main

    stage_main("ssfer report", lambda: _stage("report"))


def _stage(name: str) -> None:
    """Run one stage in this process."""
    import runpy

    from ssfer.config.identity import refreshed

    sys.path.append(os.getcwd())  # the project's stages
    with refreshed(name):
        runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)


def params(
    every: Annotated[
        bool, typer.Option("--all", help="Print all settings, also those of methods that are not used.")
    ] = False,
    stage: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="STAGE", help="Print only the settings that decide this stage's result."),
    ] = None,
) -> None:
    """Print the settings in force, one `key: value` per line: params.yaml completed with the defaults.

    \b
    Examples:
      ssfer params                       what decides the results of this project
      ssfer params --stage semisup
      ssfer params --all | grep vat

    Exit status: 0, or 2 with one line on stderr that says what is wrong.
    """
    from ssfer.core.process import stage_main

    def run() -> None:
        from ssfer.config.in_force import in_force

        for key, value in in_force(stage, every).items():
            print(f"{key}: {value}")

    stage_main("ssfer params", run)
