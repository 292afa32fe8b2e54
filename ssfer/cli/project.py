"""`ssfer init`, `profile`, `params`, `run`, `report`: a project, its settings, its stages.

Anything heavy is imported inside the commands, so that --help answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ssfer import __version__

# Of `profile`, which has a parser of its own.
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def profile(context: typer.Context) -> None:
    """Print profiles as flags of `dvc exp run`, run them, show them, or merge them into params.yaml."""
    from ssfer.config.profiles import main as run
    from ssfer.core.process import stage_main

    stage_main("ssfer profile", lambda: run(context.args))


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An empty folder, or one that is made.")],
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="PATH", help="A data set with labels; it is linked and its settings are written."),
    ] = None,
    kind: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Take --data for this kind of data set instead of recognizing it, such as class_folders."),
    ] = None,
) -> None:
    """Make a project: params.yaml, dvc.yaml and the stages, ready for `dvc repro`.

    \b
    Examples:
      ssfer init fer && cd fer && dvc repro log    the demo, on rendered faces
      ssfer init mine --data ~/faces               a run on photos in folders named by class

    Exit status: 0, or 2 with one line on stderr that says why not; then nothing was written.
    """
    from ssfer.core.process import stage_main

    def run() -> None:
        from ssfer.project.new import new_project, set_data

        if data is None:
            git = new_project(folder)
        else:
            from ssfer.core.errors import printable
            from ssfer.doctor.entry import use_of_path

            use = use_of_path(data, kind)
            git = new_project(folder)
            set_data(folder, use.place, use.raw, use.settings, use.has_test)
            for remark in use.remarks:
                print(printable(remark))
            if not use.has_test:
                print("the data has no test part, so split.fold: 0 takes a fifth of the training images for it")
        print(f"{folder} is a project of ssfer {__version__}; next: cd {folder} && dvc repro log")
        if not git:
            print("without git, `dvc exp run` is not to be had; later: git init && dvc config --unset core.no_scm")

    stage_main("ssfer init", run)


def run_stage(
    stage: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[STAGE]", help="Its name in dvc.yaml, such as semisup."),
    ] = None,
    extra: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("-S", metavar="KEY=VALUE", help="A setting of this run, as a DVC experiment; repeat it."),
    ] = None,
) -> None:
    """Run the pipeline: the stages that are stale; or one STAGE now, whether it is stale or not.

    Without STAGE it is `dvc repro log`, with -S `dvc exp run log -S ...`. Of a STAGE DVC does not see the result until
    `dvc commit STAGE` or the next `dvc repro`, which runs the stage again.

    \b
    Examples:
      ssfer run
      ssfer run -S split.labeled_fraction=0.05
      ssfer run semisup
      ssfer run evaluate && dvc commit evaluate
    """
    from ssfer.core.process import stage_main

    def run() -> None:
        import runpy

        from ssfer.config.identity import STAGES
        from ssfer.config.profiles import run_pipeline
        from ssfer.core.errors import SsferError, unknown_name

        if stage is None:
            raise typer.Exit(run_pipeline(extra or ()))
        if extra:
            raise SsferError("-S is of the whole pipeline: leave STAGE out, or change params.yaml")
        if stage not in STAGES:
            raise unknown_name("stage", stage, STAGES)
        runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)

    stage_main("ssfer run", run)


def report() -> None:
    """Build the page of results and the model card again, and say where they are: `ssfer run report`."""
    run_stage("report")


def params(
    every: Annotated[bool, typer.Option("--all", help="All settings, also of methods that are not chosen.")] = False,
    stage: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="STAGE", help="Only those that decide this stage's result."),
    ] = None,
) -> None:
    """Print the settings in force, `key: value` a line: params.yaml with the defaults of what it leaves out.

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
