"""One self-contained HTML page that compares runs on the same test images: `ssfer compare --html FILE`.

It is no part of stage report, whose page depends on one run only: what is committed at a revision is no dependency that
DVC knows, and a page that is committed itself would compare the run with itself after the commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ssfer.core.yaml import parse_yaml
from ssfer.report.html import environment
from ssfer.report.results import LADDER
from ssfer.report.setting_rows import breakable, setting_rows
from ssfer.report.terms import Terms
from ssfer.tables.compare import HEAD, Run, cells, sentences

NOT_OF_THE_RESULT = ("machine", "tracking", "report")  # sections of params.yaml


def build_comparison(runs: Sequence[Run], seconds: Sequence[float | None]) -> str:
    """Return the page.

    Args:
        runs: with the same test images; the others are compared with the first.
        seconds: how long each run's stages took, None if unknown.
    """
    *found, caution = sentences(runs)
    context = {
        "title": f"{', '.join(run.name for run in runs[1:])} compared with {runs[0].name}",
        "names": [run.name for run in runs],
        "sentences": found,
        "caution": caution,
        "head": HEAD,
        "rows": [cells(run, took) for run, took in zip(runs, seconds, strict=True)],
        "models": list(_models(runs)),
        "classes": list(_classes(runs)),
        "settings": list(_settings(runs)),
        "contents": [],
        "term": Terms(),
    }
    return environment(autoescape=True).get_template("comparison.html.j2").render(context)


def _models(runs: Sequence[Run]) -> Iterator[tuple[str, list[float | None]]]:
    """Yield a model's name and its accuracy (0..1, last epoch) in each run, None where a run has no such model."""
    tested = [run.evaluate.get("models", {}) for run in runs]
    names = dict.fromkeys(name for models in tested for name in models)
    for name in sorted(names, key=[*LADDER, *names].index):
        yield (
            LADDER.get(name, name),
            [models[name]["last"]["accuracy"] if name in models else None for models in tested],
        )


def _classes(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """Yield for each class its test images, how many each run finds, and what changed against the first run."""
    first = runs[0]
    images, found = Counter(first.actual), [_found(run) for run in runs]
    for name in first.evaluate["classes"]:
        own = [truth == name for truth in first.actual]
        changes = []
        for run in runs[1:]:
            pairs = [(a, b) for a, b, mine in zip(first.right, run.right, own, strict=True) if mine]
            changes.append((pairs.count((False, True)), pairs.count((True, False))))
        shares = [count[name] / images[name] if images[name] else None for count in found]
        yield {"name": name, "images": images[name], "recall": shares, "changes": changes}


def _found(run: Run) -> Counter[str]:
    return Counter(truth for truth, right in zip(run.actual, run.right, strict=True) if right)


def _settings(runs: Sequence[Run]) -> Iterator[tuple[str, list[str | None]]]:
    """Yield the settings in which the runs differ, with each run's value; None where its params.yaml lacks the key."""
    rows = []
    for run in runs:
        tree = parse_yaml(run.params, f"params.yaml of {run.name}")
        rows.append(setting_rows({key: value for key, value in tree.items() if key not in NOT_OF_THE_RESULT}))
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key) for row in rows]
        if len({*values}) > 1:
            yield breakable(key), values
