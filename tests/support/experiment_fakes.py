"""Records made by hand for the experiments' tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ssfer.config.identity import label_rule
from ssfer.tables.plan import Cell, Study, cells
from ssfer.tables.records import Record, write_record

TEST = {"images": 70, "sha256": "a" * 64}


def cell_of(study: Study, table: str, row: str, point: str = "", labels: str | None = None) -> Cell:
    """The one cell of a row, point and budget; without a budget the first."""
    found = [c for c in cells(study.catalogue, table, study.dataset) if (c.name, c.point) == (row, point)]
    return next(c for c in found if labels in (None, c.budget.text))


def accuracies(**models: float) -> dict[str, Any]:
    """Metrics of stage evaluate with these accuracies."""
    return {"evaluate": {"models": {name: {"last": {"accuracy": value}} for name, value in models.items()}}}


def record_of(study: Study, cell: Cell, seed: int, metrics: dict[str, Any], **changes: Any) -> Record:
    """The record of a cell's experiment."""
    e = study.experiment(cell, seed)
    record = Record(
        name=e.name,
        dataset=e.dataset,
        labels=e.labels,
        seed=seed,
        fold=e.fold,
        commit="c" * 40,
        settings=e.settings,
        label_rule=label_rule(e.params),
        split={"hash": "5" * 64, "labeled": 7, "valid": 0, "unlabeled": 9, "test": 70},
        test=TEST,
        metrics=metrics,
    )
    return replace(record, **changes)


def save(*records: Record) -> None:
    """Write records where `read_records` finds them."""
    for record in records:
        write_record(record, {})
