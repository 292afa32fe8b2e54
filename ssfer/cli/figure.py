"""Define the command `ssfer figure`; heavy packages are imported when it runs."""

from typing import Annotated, Optional

import typer


def figure(
    name: Annotated[Optional[str], typer.Argument(metavar="[NAME]", help="Draw this figure.")] = None,  # noqa: UP045
    dataset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Data set of `ssfer experiments list` whose records have the confusion matrices. Default: the one "
            "that params.yaml holds."
        ),
    ] = None,
) -> None:
    """Draw a figure of the paper from this project's results, data/reports/figures/NAME.png; without NAME list all.

    Figures that show faces need report.gallery: true. git ignores the folder.

    \b
    Examples:
      ssfer figure reconstructions
      ssfer figure confusions --dataset ferplus

    Exit status: 0, or 2 with one line on stderr that says what is missing.
    """
    from ssfer.core.process import stage_main

    def run() -> None:
        from ssfer.config.schema import load_params
        from ssfer.report.figures import TITLES
        from ssfer.stages.figures import FIGURES, write_figure
        from ssfer.tables.catalogue import catalogue
        from ssfer.tables.plan import present_dataset

        if name is None:
            for known, content in FIGURES.items():
                print(f"{known:<16}{TITLES[known]}{', shows faces' if content.faces else ''}")
            return
        print(f"wrote {write_figure(name, load_params(), dataset or present_dataset(catalogue()))}")

    stage_main("ssfer figure", run)
