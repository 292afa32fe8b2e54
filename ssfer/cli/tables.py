"""Define the commands `ssfer experiments ...`; heavy packages are imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from ssfer.tables.budget import Budget
    from ssfer.tables.plan import Study

experiments_app = typer.Typer(
    name="experiments", help="The paper's tables: list, run, compare.", no_args_is_help=True, rich_markup_mode=None
)

Dataset = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Data set of the catalogue (`ssfer experiments list`); own: params.yaml as it is. Default: the one that "
        "params.yaml holds."
    ),
]
Labels = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(metavar="BUDGET", help="10% or 0.1 of each class, 25/class, or a total; repeat it for several."),
]
Preset = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(metavar="PROFILE", help="Another profile, applied after the data set's; repeat it for several."),
]
Set = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", metavar="KEY=VALUE", help="Another setting, such as semisup.epochs=2; repeat it."),
]
OnlyRows = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--row", metavar="ROW", help="Only this row of the tables; repeat it for several."),
]
PretrainSeeds = Annotated[bool, typer.Option("--pretrain-seeds", help="Runs pretrained for each seed instead of once.")]


@experiments_app.command("list")
def list_tables(
    table: Annotated[Optional[str], typer.Argument(metavar="[TABLE]", help="Show this table's rows.")] = None,  # noqa: UP045
) -> None:
    """List the tables and data sets of the catalogue, or one table's rows with their settings.

    Also counts how many of the paper's printed results belong to a row, and how many are of cited methods, which are
    shown but not run.

    \b
    Examples:
      ssfer experiments list
      ssfer experiments list table14
    """
    from ssfer.core.process import stage_main

    def run() -> None:
        from ssfer.tables.accounting import account
        from ssfer.tables.catalogue import catalogue

        known = catalogue()
        if table is None:
            for name, content in known.tables.items():
                print(f"{name:<13}{content.title}")
            print()
            for name, data in known.datasets.items():
                print(f"{name:<16}{data.title}, labels {', '.join(b.text for b in data.labels)}")
            print(f"\ntables 2 to 16: {account(known)}")
            return
        content = known.table(table)
        rest = "/..." if any(point.end for point in known.points(content).values()) else ""
        print(f"{table}: {content.title}")
        for name, row in content.rows.items():
            own = [f"profile {profile}" for profile in row.profiles]
            own += [f"{key}={value}" for key, value in row.set.items()]
            own += [f"from {row.start} (ssfer fetch {Path(row.start).stem})"] if row.start else []
            own += [f"from {row.search} (ssfer search lr)"] if row.search else []
            print(f"  {name}: {', '.join(own) or 'as the data set'}; {row.measured(rest)}")
        if content.axis:
            print(f"  {content.axis}: {'; '.join(known.points(content))}")
        if content.cited:
            print(f"  cited: {'; '.join(content.cited)}")
        if (found := account(known, table)).printed:
            print(f"  {found}")

    stage_main("ssfer experiments list", run)


@experiments_app.command("run")
def run_tables(
    tables: Annotated[list[str], typer.Argument(metavar="TABLE...", help="One or more tables, such as table10.")],
    dataset: Dataset = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Number of seeds.")] = 1,
    first_seed: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, help="First seed; the others follow it; default: the catalogue's."),
    ] = None,
    labels: Labels = None,
    rows: OnlyRows = None,
    preset: Preset = None,
    set_: Set = None,
    pretrain_seeds: PretrainSeeds = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also run what has a record; DVC trains only what changed.")
    ] = False,
    queue: Annotated[
        bool, typer.Option("--queue", help="Put the experiments into DVC's queue instead of running them.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run, and run nothing.")] = False,
) -> None:
    """Run the tables' missing results as DVC experiments, and record each in metrics/experiments/DATASET/NAME.json.

    Rows with the same settings are one experiment, also across tables. Split, fine-tuning and semi-supervised training
    use the seed; pretraining is shared. Experiments run in folders of their own: params.yaml, data/ and metrics/*.json
    do not change. You can stop at any time: the same command continues.

    \b
    Examples:
      ssfer experiments run table10 --seeds 3
      ssfer experiments run table10 table12 table13 --dataset ferplus --seeds 3 --labels 10%
      ssfer experiments run methods --row FixMatch --row LEAF
      ssfer experiments run table10 --dry-run
      ssfer experiments run table10 --queue && dvc queue start    later the same without --queue records the results

    Exit status: 0; 1 when an experiment failed; 2 with one line on stderr that says why nothing can run.
    """
    from ssfer.core.process import CONTINUES, stage_main

    def run() -> None:
        from ssfer.tables import dvc_runs
        from ssfer.tables.run import plan, run_jobs

        study, budgets = _study(dataset, labels, preset, set_, pretrain_seeds)
        start = study.catalogue.first_seed if first_seed is None else first_seed
        jobs, left_out = plan(study, tables, range(start, start + seeds), budgets, rows or ())
        for row, why in left_out.items():
            print(f"left out: {row}, because {why}")
        done = sum(job.done for job in jobs)
        print(f"{len(jobs)} experiments, {done} of them done", flush=True)
        if dry_run:
            for job in jobs:
                print(f"{'done' if job.done else 'to do':<6}{job.experiment.name} ({'; '.join(job.rows)})")
            return
        if found := dvc_runs.leftovers():
            print(f"{found} folders of killed experiments lie in {dvc_runs.LEFTOVERS}; delete them while none runs")
        failed = run_jobs(jobs, study, again=again, queue=queue)
        if failed:
            print(f"{len(failed)} failed: {', '.join(failed)}")
            raise typer.Exit(1)

    stage_main("ssfer experiments run", run, CONTINUES)


@experiments_app.command("table")
def show_table(
    table: Annotated[str, typer.Argument(metavar="TABLE")],
    dataset: Dataset = None,
    labels: Labels = None,
    preset: Preset = None,
    set_: Set = None,
    pretrain_seeds: PretrainSeeds = False,
    rows: OnlyRows = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print it in Markdown.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print a table: our mean and standard deviation over seeds and the paper's numbers, in percent.

    Reads metrics/experiments/DATASET only. Runs with --preset, --set or --pretrain-seeds are shown with the same
    options. Runs with different test images or label rules are refused.

    \b
    Examples:
      ssfer experiments table table10
      ssfer experiments table table10 --dataset ferplus --labels 10% --markdown

    Exit status: 0, or 2 with one line on stderr that says what is wrong.
    """
    from ssfer.core.process import stage_main

    def run() -> None:
        from ssfer.core.errors import SsferError
        from ssfer.tables import show
        from ssfer.tables.numbers import table_numbers

        if markdown and json:
            raise SsferError("--markdown and --json exclude each other; give one of them")
        study, budgets = _study(dataset, labels, preset, set_, pretrain_seeds)
        found = table_numbers(table, study, budgets, rows or ())
        if markdown or json:
            print((show.as_json if json else show.as_markdown)(table, study, found))
        else:
            show.as_text(table, study, found)

    stage_main("ssfer experiments table", run)


@experiments_app.command("plot")
def plot_table(
    table: Annotated[str, typer.Argument(metavar="TABLE")],
    dataset: Dataset = None,
    labels: Labels = None,
    preset: Preset = None,
    set_: Set = None,
    rows: OnlyRows = None,
    column: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="COLUMN", help="Only this column of a table that has several, such as average."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="PNG file; default: data/reports/figures/TABLE-DATASET[-COLUMN].png."),
    ] = None,
) -> None:
    """Plot a table's accuracy against the number of labels: one line per row and column, with the spread over seeds.

    \b
    Examples:
      ssfer experiments run table2 --labels 5% --labels 10% --seeds 3
      ssfer experiments plot table2 --labels 5% --labels 10%
      ssfer experiments plot methods --labels 5% --labels 20% --column average --row UDA --row "EMA teacher (SSFER)"

    Exit status: 0, or 2 with one line on stderr, for example when only one label budget has results.
    """
    from ssfer.core.process import stage_main

    def run() -> None:
        from ssfer.core.files import write_bytes
        from ssfer.report.label_curve import label_curve_png
        from ssfer.tables.numbers import chosen, table_numbers
        from ssfer.tables.show import heading

        study, budgets = _study(dataset, labels, preset, set_, False)
        name = "-".join(filter(None, (table, study.dataset, column))).replace(" ", "_")
        path = out or Path("data/reports/figures", f"{name}.png")
        lines = chosen(table_numbers(table, study, budgets).lines, rows or (), column)
        write_bytes(path, label_curve_png(heading(table, study), lines))
        print(f"wrote {path}")

    stage_main("ssfer experiments plot", run)


def _study(
    dataset: str | None,
    labels: list[str] | None,
    preset: list[str] | None,
    set_: list[str] | None,
    pretrain_seeds: bool,
) -> tuple[Study, list[Budget]]:
    from ssfer.tables.budget import parse_budget
    from ssfer.tables.catalogue import catalogue
    from ssfer.tables.plan import Study, present_dataset
    from ssfer.tables.settings import parse_settings

    budgets = [parse_budget(text) for text in labels or ()]
    name = dataset or present_dataset(catalogue())
    return Study(catalogue(), name, preset or (), parse_settings(set_ or ()), pretrain_seeds), budgets
