"""Compare runs on the same test images: commits, branches, DVC experiments and the working tree.

Reads what each of them committed in metrics/. Times are not stored there; the command adds them from MLflow.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ssfer.config.identity import STAGES, identity
from ssfer.config.schema import load_params
from ssfer.core.errors import SsferError
from ssfer.core.files import json_bytes, sha256_json
from ssfer.evaluation.paired import Paired, paired
from ssfer.formats.metrics import details_of
from ssfer.tables import dvc_runs

WORKSPACE = "workspace"
HEAD = ("run", "labels", "accuracy", "95 % interval", "mean recall", "ECE", "time")
WIDTH = 120  # columns, if the output is not a terminal


@dataclass(frozen=True)
class Run:
    """One run's results on the test part; rates are 0..1.

    Attributes:
        evaluate: details of metrics/evaluate.json.
        split: details of metrics/split.json.
        params: text of params.yaml.
        actual: true class per test image.
        predicted: class that the headline model predicts, in the same order.
    """

    name: str
    evaluate: Mapping[str, Any]
    split: Mapping[str, Any]
    params: str
    actual: Sequence[str]
    predicted: Sequence[str]

    @property
    def right(self) -> list[bool]:
        """Return for each test image whether the headline model is right."""
        return [a == p for a, p in zip(self.actual, self.predicted, strict=True)]

    def test(self, by_ids: bool) -> str:
        """Return a hash of the test images' ids, or of their classes in order, which older runs also have."""
        return str(self.evaluate["test_sha256"]) if by_ids else sha256_json(list(self.actual))


def read_run(name: str) -> Run:
    """Read a run by its revision (commit, branch, tag), its DVC experiment's name, or `workspace`.

    Raises:
        SsferError: unknown revision or experiment, or its results are missing.
    """
    commit = None if name == WORKSPACE else resolve(name)

    def text(path: str) -> str:
        if commit is None:
            found = Path(path).read_text() if Path(path).is_file() else None
        else:
            found = dvc_runs.read_text(commit, path)
        if found is None:
            raise SsferError(
                f"{name} has no {path}: stage evaluate has not run there, or its results are not committed"
            )
        return found

    try:
        evaluate, split = (details_of(json.loads(text(f"metrics/{s}.json")), s) for s in ("evaluate", "split"))
        rows = list(csv.DictReader(text("metrics/confusion.csv").splitlines()))
        actual, predicted = ([row[key] for row in rows] for key in ("actual", "predicted"))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise SsferError(
            f"the files in metrics/ of {name} cannot be read ({error!r}); run dvc repro evaluate"
        ) from error
    return Run(name, evaluate, split, text("params.yaml"), actual, predicted)


def stale_stage() -> str | None:
    """Return the first stage whose settings, code or files have changed since the working tree's results; None: none.

    Results of an interrupted run are those of the run before it.
    """
    params = load_params()
    made = dvc_runs.identities(None, ("evaluate",))
    for stage in (stage for stage in STAGES if stage in made):
        if hashlib.md5(json_bytes(identity(stage, params))).hexdigest() != made[stage]:  # as DVC hashes the file
            return stage
    return None


def resolve(name: str) -> str:
    """Return the commit of a revision or of the newest DVC experiment of this name.

    Raises:
        SsferError: there is none.
    """
    found = dvc_runs.git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", check=False)
    commits = [found.strip()] if found else dvc_runs.finished(name)
    if not commits:
        raise SsferError(
            f"'{name}' is no commit, branch, tag or DVC experiment of this project; `git log` and `dvc exp list -A` "
            f"name them, and {WORKSPACE} is the working tree"
        )
    return commits[0]


def check_same_test(runs: Sequence[Run]) -> None:
    """Refuse runs that were tested on different images.

    Raises:
        SsferError: names two runs and what differs.
    """
    first = runs[0]
    for run in runs[1:]:
        by_ids = all("test_sha256" in r.evaluate for r in (first, run))
        if (first.evaluate["classes"], first.test(by_ids)) != (run.evaluate["classes"], run.test(by_ids)):
            counts = " and ".join(f"{len(r.actual):,} of {len(r.evaluate['classes'])} classes" for r in (first, run))
            raise SsferError(
                f"{first.name} and {run.name} were tested on different images ({counts}), so their results cannot be "
                "compared; evaluate both on one test set"
            )


def differences(runs: Sequence[Run]) -> Iterator[tuple[Run, Paired]]:
    """Yield every run after the first with its comparison to the first."""
    for run in runs[1:]:
        yield run, paired(runs[0].right, run.right)


def show(runs: Sequence[Run], seconds: Sequence[float | None]) -> None:
    """Print the runs as a table and, below it, each one's difference to the first.

    Args:
        runs: the first one is the reference.
        seconds: how long each run's stages took, None if unknown.
    """
    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    table = Table(box=box.SIMPLE_HEAD)
    for title in HEAD:
        table.add_column(title, justify="left" if title == HEAD[0] else "right", overflow="fold")
    for run, took in zip(runs, seconds, strict=True):
        table.add_row(*cells(run, took))
    console.print(table)
    for sentence in sentences(runs):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def cells(run: Run, seconds: float | None) -> tuple[str, ...]:
    """Return a run's row: label budget, accuracy with its interval, mean recall, ECE, minutes."""
    found = run.evaluate["headline"]
    low, high = found["accuracy_ci95"]
    return (
        run.name,
        f"{run.split['labeled'] + run.split['valid']:,}",
        _percent(found["accuracy"]),
        f"{_percent(low)} to {_percent(high)}",
        _percent(found["mean_recall"]),
        f"{found['ece']:.3f}",
        "–" if seconds is None else f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s",
    )


def sentences(runs: Sequence[Run]) -> Iterator[str]:
    """Yield one sentence per run after the first, then a caution about what the intervals cover."""
    for run, found in differences(runs):
        low, high = (100 * bound for bound in found.interval)
        yield (
            f"{run.name} minus {runs[0].name}: {100 * found.difference:+.1f} points (95 % interval {low:+.1f} to "
            f"{high:+.1f}), {found.gained} images gained, {found.lost} lost, McNemar p = {_p(found.p_value)}."
        )
    yield (
        f"All on the same {len(runs[0].actual):,} test images. Intervals and p cover the sampling of test images, not "
        "the variation between seeds, which may be larger."
    )


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
