"""The tables of docs/results/results.md, from the records in metrics/experiments."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

from ssfer.tables.budget import parse_budget
from ssfer.tables.catalogue import catalogue
from ssfer.tables.numbers import Line, table_numbers
from ssfer.tables.plan import Study
from ssfer.tables.show import heading, p_text
from tools.claims import NETWORKS, gain_text

ROOT = Path(__file__).resolve().parents[1]
LABEL_BUDGETS = [parse_budget(text) for text in ("1%", "5%", "10%", "25%")]  # of the label-ratio table, on all data
TRAINED = "evaluate/models"  # metric of a row of `methods` that trains; its column is the rest of the path


def experiments(root: Path) -> list[str]:
    """Return a block for every table that compares two rows or label budgets, of several experiments or seeds."""
    blocks = []
    with contextlib.chdir(root):
        for folder in sorted(Path("metrics/experiments").glob("*/")):
            study = Study(catalogue(), folder.name)
            for name, table in study.catalogue.tables.items():
                if folder.name not in study.catalogue.about(name):
                    continue
                found = table_numbers(name, study, LABEL_BUDGETS if name == "table2" else [])
                lines = [line for line in found.lines if line.values]
                compared = {record.name.rpartition("-s")[0] for record in found.records}  # but for the seed
                # Rows of one experiment compare only in a table of the data set's own; elsewhere they are one model.
                own = table.datasets and any(len(line.values) > 1 for line in lines)
                rows = {(line.row, line.labels) for line in lines}  # a row may have several points
                if (len(compared) > 1 or own) and len(rows) > 1:
                    tests = sorted({int(record.test["images"]) for record in found.records})
                    title, against = heading(name, study), table.against or ""
                    if table.axis == "network":
                        blocks.append(networks(title, tests, lines, step_times(name, study), against))
                    else:
                        blocks.append(one_column(title, tests, lines, against))
    return blocks


def step_times(table: str, study: Study) -> dict[str, str]:
    """Return row -> ms per step of 64 labeled and 64 unlabeled images, for `methods` with the demo's network.

    They are those of docs/results/benchmarks.md; rows with another number of images per step and methods that were not
    measured are left out.
    """
    if (table, study.dataset) != ("methods", "demo"):
        return {}
    page = (ROOT / "docs/results/benchmarks.md").read_text()
    measured = dict(re.findall(r"^\| `(\w+)` \| \d+, \d+ \| ([\d,]+) \|", page, re.MULTILINE))
    rows = study.catalogue.table(table).rows.items()
    alike = {name: row for name, row in rows if row.metric == TRAINED and "semisup.uratio" not in row.set}
    methods = {name: row.set.get("semisup.method", "ema_teacher") for name, row in alike.items()}
    return {name: measured[method] for name, method in methods.items() if method in measured}


def one_column(title: str, tests: list[int], lines: list[Line], against: str = "") -> str:
    """Return a table's block of Markdown: a line per row, label budget and point.

    Args:
        title: as `ssfer.tables.show.heading` returns it.
        tests: numbers of test images of its runs.
        lines: those with values.
        against: the row that the gains are over.
    """
    printed, gains = (any(getattr(line, name) is not None for line in lines) for name in ("paper", "gain"))
    head = [
        _title(title, tests),
        "",
        "| row | labels | accuracy | ± over seeds | seeds |"
        + gains * f" gain over {against} | p |"
        + printed * " paper, its data |",
        "|---|---|---|---|---|" + (2 * gains + printed) * "---|",
    ]
    rows = [
        f"| {line.row}{f', {line.point}' if line.point else ''} | {line.labels} | {line.mean:.1f} % | "
        f"{'–' if line.spread is None else f'{line.spread:.1f}'} | {len(line.values)} |"
        + gains * f" {gain_text(line.gain)} | {p_text(line.gain.p_value if line.gain else None)} |"
        + printed * _printed(line)
        for line in lines
    ]
    return "\n".join([*head, *rows]) + "\n"


def networks(title: str, tests: list[int], lines: list[Line], times: Mapping[str, str], against: str) -> str:
    """Return a block like `one_column`'s with a row's networks side by side: its student and its average.

    Args:
        title, tests, lines, against: as of `one_column`; without a row to compare with there are no gains.
        times: row -> ms per training step; empty: no such column.
    """
    printed = any(line.paper is not None for line in lines)
    head = [
        _title(title, tests),
        "",
        "| row | labels | seeds |"
        + "".join(f" {network} |" + bool(against) * f" gain over {against} | p |" for network in NETWORKS)
        + printed * " paper, its data |"
        + bool(times) * " ms a step of 64 + 64 |",
        "|---|---|---|" + len(NETWORKS) * ("---|---|---|" if against else "---|") + (printed + bool(times)) * "---|",
    ]
    found: dict[tuple[str, str], dict[str, Line]] = {}
    for line in lines:
        found.setdefault((line.row, line.labels), {})[line.point] = line
    for (row, labels), points in found.items():
        text = f"| {row} | {labels} | {max(len(line.values) for line in points.values())} |"
        for one in map(points.get, NETWORKS):
            gain = one.gain if one else None
            text += f" {_mean(one) if one else '–'} |"
            text += bool(against) * f" {gain_text(gain)} | {p_text(gain.p_value if gain else None)} |"
        text += printed * _printed(next((line for line in points.values() if line.paper is not None), None))
        head.append(text + bool(times) * f" {times.get(row, '–')} |")
    return "\n".join(head) + "\n"


def _title(title: str, tests: list[int]) -> str:
    return f"**{re.sub(r'^table(?=[0-9])', 'Table ', title)}**, {' or '.join(f'{n:,}' for n in tests)} test faces:"


def _printed(line: Line | None) -> str:
    return " – |" if line is None or line.paper is None else f" {line.paper:.1f} % |"


def _mean(line: Line) -> str:
    """Return mean and spread over seeds in percent."""
    return f"{line.mean:.1f}" + ("" if line.spread is None else f" ± {line.spread:.1f}") + " %"
