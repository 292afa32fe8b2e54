"""Printed numbers of the paper, out of ssfer/paper/paper_tables.csv."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ssfer.errors import SsferError
from ssfer.experiments.catalogue import Catalogue, Dataset, Table
from ssfer.experiments.plan import Cell

TABLES = Path(__file__).resolve().parents[1] / "paper" / "paper_tables.csv"
METRICS = ("accuracy_percent", "accuracy_decline_points")


@dataclass(frozen=True)
class Printed:
    """One number: percent, or points for a decline. `setting` holds label budget, fold, and so on by name."""

    table: str
    dataset: str
    method: str
    setting: tuple[tuple[str, str], ...]
    value: float

    def __str__(self) -> str:
        return "; ".join(f"{key}={value}" for key, value in self.setting)


@cache
def printed_numbers() -> tuple[Printed, ...]:
    """Return all accuracies that the paper prints."""
    with open(TABLES, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] in METRICS]
    return tuple(
        Printed(
            f"table{row['table']}",
            row["dataset"],
            row["method"],
            tuple((k, v) for k, _, v in (part.partition("=") for part in row["setting"].split(";"))),
            float(row["value"]),
        )
        for row in rows
    )


def wanted(cell: Cell, table: Table, dataset: Dataset) -> tuple[str, Mapping[str, str]] | None:
    """Return (method, entries of `setting`) of the number that stands beside a cell; None: the paper has none."""
    if cell.row.method is None or dataset.paper is None:
        return None
    words = {"labels": cell.budget.text, "count": cell.budget.count}
    setting = {**table.paper, **dataset.where, **cell.row.paper, **cell.content.paper}
    if any("{count}" in value for value in setting.values()) and cell.budget.unit == "%":
        return None  # a share is not the number of labels that such a table prints
    return cell.row.method.format(**words), {k: v.format(**words) for k, v in setting.items()}


def beside(cell: Cell, catalogue: Catalogue, dataset: str) -> Printed | None:
    """Return the printed number for a cell, None when there is none.

    Raises:
        SsferError: the catalogue's entry fits several numbers.
    """
    about = catalogue.dataset(dataset)
    sought = wanted(cell, catalogue.table(cell.table), about)
    if sought is None:
        return None
    method, setting = sought
    found = [
        p
        for p in printed_numbers()
        if (p.table, p.dataset, p.method) == (cell.table, about.paper, method) and setting.items() <= set(p.setting)
    ]
    if len(found) > 1:
        raise SsferError(f"catalogue.yaml: {cell.table}, row '{cell.name}' fits {len(found)} printed numbers")
    return found[0] if found else None
