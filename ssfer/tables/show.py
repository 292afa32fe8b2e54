"""Print tables of experiments on the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from ssfer.tables.numbers import Line, TableNumbers
from ssfer.tables.plan import Study
from ssfer.tables.records import precisions, pretrained_apart, splits_apart

NOTHING = "–"
HEAD = ("row", "labels", "", "ours %", "± seeds", "seeds", "gain", "p", "paper %", "difference")
GAIN = ("gain", "p")  # columns of the comparison with the table's row `against`
LEFT = ("row", "labels", "")  # columns of text


def heading(name: str, study: Study) -> str:
    """Return a table's title and the data set's."""
    return f"{name}: {study.catalogue.table(name).title} ({study.about.title})"


def head(lines: Sequence[Line]) -> tuple[str, ...]:
    """Return the titles of the columns; values are in percent unless some lines are counted."""
    counted = any(line.count is not None for line in lines)
    return tuple(title.removesuffix(" %") for title in HEAD) if counted else HEAD


def cells_of(line: Line) -> tuple[str, ...]:
    """Return a line's columns as text, in the order of HEAD."""
    return (
        line.row,
        line.labels,
        line.point,
        _number(line.mean),
        _number(line.spread),
        str(len(line.values)) if not line.published and line.count is None else NOTHING,
        _number(line.gain.mean if line.gain else None, "+.2f"),
        p_text(line.gain.p_value if line.gain else None),
        _number(line.paper),
        _number(line.difference, "+.2f"),
    )


def remarks(name: str, study: Study, found: TableNumbers) -> Iterator[str]:
    """Yield the notes below a table that a reader needs to judge its numbers."""
    if found.records:
        tests = sorted({int(r.test["images"]) for r in found.records})
        yield f"Tested on {' or '.join(f'{n:,}' for n in tests)} images; ± is the sample standard deviation over seeds."
        commits = {r.commit for r in found.records}
        if len(commits) > 1:
            yield f"The runs are of {len(commits)} states of the code; --again runs what has changed since then."
    if (apart := pretrained_apart(found.records)) > 1:
        yield f"CAUTION: runs with the same settings of pretraining used {apart} different pretrained weights."
    if (apart := splits_apart(found.records)) > 1:
        yield (
            f"CAUTION: runs with the same settings of the split were trained on {apart} different splits, whose faces "
            "differ; compare rows of one split, or run the others with --again."
        )
    if len(different := precisions(found.records)) > 1:
        yield (
            f"CAUTION: the runs were computed in different precisions ({', '.join(different)}), which alone moves "
            "single results; compare rows of one precision."
        )
    if any(line.gain for line in found.lines):
        yield (
            f"Gain: mean difference to row '{study.catalogue.table(name).against}', in points; p: two-sided paired "
            "t-test over the seeds that both have, not corrected for the number of rows."
        )
    if study.about.paper and study.about.recipe != "paper":
        yield "Not the paper's network and recipe: its numbers are for orientation."
    if any(line.count is not None for line in found.lines):
        yield "Accuracies are in percent. The paper's FLOPs are multiply-accumulates, without attention's; so are ours."
    for row, why in found.lacking.items():
        yield f"Left out: {row}, because {why}."
    if found.empty:
        yield f"Missing results: {len(found.empty)}; to run them: {_run_command(name, study, found)}"


def _run_command(name: str, study: Study, found: TableNumbers) -> str:
    """Return the command line that runs the missing results: their budgets only, with the options of the table."""
    budgets = list(dict.fromkeys(line.labels for line in found.empty))
    if budgets == [budget.text for budget in study.catalogue.budgets(name, study.dataset)]:
        budgets = []  # the default of `run`
    words = ["ssfer", "experiments", "run", name, "--dataset", study.dataset]
    words += [word for text in budgets for word in ("--labels", text)]
    words += [word for text in study.presets for word in ("--preset", text)]
    # --set reads YAML, and JSON is YAML; `ssfer.config.profiles.encode` writes for -S, and its {a:1} is not a mapping
    words += [word for key, value in study.extra.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    words += ["--pretrain-seeds"] if study.pretrain_seeds else []
    return shlex.join(words)


def as_json(name: str, study: Study, found: TableNumbers) -> str:
    """Return a table as one JSON object."""
    content = {
        "table": name,
        "title": study.catalogue.table(name).title,
        "dataset": study.dataset,
        "lines": [line.as_dict() for line in found.lines],
        "test": [dict(t) for t in {r.test["sha256"]: r.test for r in found.records}.values()],
        "commits": sorted({r.commit for r in found.records}),
        "records": sorted(r.name for r in found.records),
        "remarks": list(remarks(name, study, found)),
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def as_markdown(name: str, study: Study, found: TableNumbers) -> str:
    """Return a table as Markdown."""
    shown = _shown(found.lines)
    titles = head(found.lines)
    top, *lines = ([row[i] for i in shown] for row in (titles, *map(cells_of, found.lines)))
    rule = ["---" if titles[i] in LEFT else "---:" for i in shown]
    body = [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |" for row in (top, rule, *lines)]
    notes = [text for remark in remarks(name, study, found) for text in ("", remark)]
    return "\n".join([f"**{heading(name, study)}**", "", *body, *notes])


def as_text(name: str, study: Study, found: TableNumbers) -> None:
    """Print a table."""
    shown = _shown(found.lines)
    titles = head(found.lines)
    table = RichTable(title=heading(name, study), box=box.SIMPLE_HEAD, title_justify="left")
    for i in shown:
        table.add_column(titles[i], justify="left" if titles[i] in LEFT else "right")
    for line in found.lines:
        row = cells_of(line)
        table.add_row(*(row[i] for i in shown), style="dim" if line.published else None)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)  # a pipe has no width, and rich would wrap at 80 columns
    console.print(table)
    for remark in remarks(name, study, found):
        console.print(remark, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _shown(lines: Sequence[Line]) -> list[int]:
    """Return the indices of the columns to show: the axis's and the gain's only if a line has one."""
    hidden = {"": not any(line.point for line in lines)} | dict.fromkeys(GAIN, not any(line.gain for line in lines))
    return [i for i, title in enumerate(HEAD) if not hidden.get(title)]


def p_text(value: float | None) -> str:
    """Return a p-value as text."""
    return NOTHING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _number(value: float | None, form: str = ".2f") -> str:
    return NOTHING if value is None else format(value, form).replace("-", "\N{MINUS SIGN}")
