"""Define the command `ssfer compare`; heavy packages are imported when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer


def compare(
    revisions: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[REV]...", help="Commits, branches, DVC experiments, or `workspace`."),
    ] = None,
    html: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Also write a page: every model, every class, the settings that differ."),
    ] = None,
) -> None:
    """Compare runs on the same test images: accuracy, mean recall, ECE, labels, time, and a paired test.

    The others are compared with the first REV. A single REV is compared with the workspace; the default is HEAD. Times
    are those of MLflow (mlflow.db) for runs with the same settings. The test is McNemar's, on the test images that
    only one of two runs classifies correctly.

    \b
    Examples:
      ssfer compare                         the working tree with the last commit
      ssfer compare main labels-0.05        a DVC experiment with the branch main
      ssfer compare --html compare.html     a page, to open in a browser

    Exit status: 0, or 2 with one line on stderr: an unknown revision, or runs with different test images.
    """
    from ssfer.core.process import stage_main

    def run() -> None:
        from ssfer.config.schema import PARAMS_FILE, parse_params
        from ssfer.core.errors import SsferError
        from ssfer.core.files import no_project, write_bytes
        from ssfer.core.yaml import parse_yaml
        from ssfer.report.comparison_page import build_comparison
        from ssfer.tables.compare import WORKSPACE, Run, check_same_test, read_run, show, stale_stage
        from ssfer.tracking.durations import build_seconds

        if not PARAMS_FILE.exists():
            raise no_project()
        names = list(dict.fromkeys(revisions or ["HEAD"]))
        if len(names) == 1 and len(revisions or ()) > 1:
            raise SsferError(f"expected different runs, found {names[0]} twice")
        if html and html.is_dir():
            raise SsferError(f"--html {html} is a folder; name a file in it")
        runs = [read_run(name) for name in (names if len(names) > 1 else [*names, WORKSPACE])]
        check_same_test(runs)
        if any(one.name == WORKSPACE for one in runs) and (stage := stale_stage()):
            why = f"what stage {stage} depends on has changed; `ssfer run` makes them anew"
            print(f"ssfer compare: {WORKSPACE} has older results: {why}", file=sys.stderr)

        def seconds(one: Run) -> float | None:
            try:
                return build_seconds(parse_params(parse_yaml(one.params, "params.yaml")))
            except SsferError:
                return None  # settings of another ssfer, which no run in mlflow.db has

        times = [seconds(one) for one in runs]
        page = build_comparison(runs, times).encode() if html else None
        show(runs, times)
        if html and page:
            write_bytes(html, page)
            print(f"wrote {html}")

    stage_main("ssfer compare", run)
