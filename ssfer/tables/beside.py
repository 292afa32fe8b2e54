"""The paper's printed number for a cell of a table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache

from ssfer.core.errors import SsferError
from ssfer.tables.catalogue import Catalogue, Dataset, Table
from ssfer.tables.paper import Printed, printed
from ssfer.tables.plan import Cell

ACCURACY = ("accuracy_percent", "accuracy_decline_points")


@cache
def printed_numbers() -> tuple[Printed, ...]:
    """Return all results that the paper prints: tables 2 to 16 (table 1 only counts images)."""
    return tuple(number for number in printed() if number.table != "table1")


def wanted(cell: Cell, table: Table, dataset: Dataset) -> tuple[str, Mapping[str, str]] | None:
    """Return (method, entries of `setting`) of a cell's printed number; None: the paper has none."""
    if cell.row.method is None or dataset.paper is None or cell.content.paper is None:
        return None
    if cell.row.labels is not None and cell.budget not in cell.row.labels:
        return None
    words = {"labels": cell.budget.text, "count": cell.budget.count}
    setting = {**table.paper, **dataset.where, **cell.row.paper, **cell.content.paper}
    if any("{count}" in value for value in setting.values()) and cell.budget.unit == "%":
        return None  # these tables print numbers of labels, not shares
    return cell.row.method.format(**words), {k: v.format(**words) for k, v in setting.items()}


def beside(cell: Cell, catalogue: Catalogue, dataset: str) -> Printed | None:
    """Return the printed number for a cell, None when there is none.

    Raises:
        SsferError: the catalogue's entry matches several printed numbers.
    """
    about = catalogue.dataset(dataset)
    sought = wanted(cell, catalogue.table(cell.table), about)
    if sought is None:
        return None
    method, setting = sought
    metrics = (cell.content.count,) if cell.content.count else ACCURACY
    found = [
        p
        for p in _named(cell.table, str(about.paper), method)
        if p.metric in metrics and setting.items() <= set(p.setting)
    ]
    if len(found) > 1:
        raise SsferError(f"catalogue.yaml: {cell.table}, row '{cell.name}' fits {len(found)} printed numbers")
    return found[0] if found else None


def others(name: str, dataset: Dataset, own: Collection[Printed | None], cited: Collection[str]) -> list[Printed]:
    """Return the numbers that a table prints of cited methods for a data set and that belong to no cell."""
    return [
        p
        for p in printed_numbers()
        if (p.table, p.dataset) == (name, dataset.paper) and p not in own and p.method in cited
    ]


@cache
def _named(table: str, dataset: str, method: str) -> tuple[Printed, ...]:
    return tuple(p for p in printed_numbers() if (p.table, p.dataset, p.method) == (table, dataset, method))
