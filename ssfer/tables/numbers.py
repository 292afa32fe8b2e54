"""A table's results over seeds and the paper's printed numbers, both in percent."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from ssfer.core.errors import unknown_name
from ssfer.evaluation.paired import PairedSeeds, paired_seeds
from ssfer.models.settings import ModelSettings
from ssfer.tables.beside import beside, others
from ssfer.tables.budget import Budget
from ssfer.tables.plan import Cell, Experiment, Study, cells, lacking
from ssfer.tables.records import Record, check_comparable, find_record, read_records

if TYPE_CHECKING:
    from ssfer.evaluation.complexity import Complexity

PAPER_CLASSES = 7  # table 6 is of RAF-DB
COUNTS = {"params_M": "parameters, M", "flops_G": "GMACs"}  # metric of the paper -> point of the catalogue


@dataclass(frozen=True)
class Line:
    """One cell of a table: row, label budget, column, our values and the paper's.

    Attributes:
        values: seed -> percent.
        paper: the printed percent.
        published: a number of a method of another paper, which is cited and not run here.
        count: what was counted of the network instead of measured, in the unit of `point`.
        gain: the comparison with the table's row `against`, at the same labels and point; None without one.
    """

    row: str
    labels: str
    point: str
    values: Mapping[int, float]
    paper: float | None
    published: bool = False
    count: float | None = None
    gain: PairedSeeds | None = None

    @property
    def mean(self) -> float | None:
        """Return the mean over seeds, or what was counted; None without either."""
        if self.count is not None:
            return self.count
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def spread(self) -> float | None:
        """Return the sample standard deviation over seeds; None for fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Return ours minus the paper's, in percentage points."""
        return None if self.mean is None or self.paper is None else self.mean - self.paper

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, rounded to four decimals: test sets resolve less."""
        own = ("row", "labels", "point", "values", "mean", "spread", "paper", "difference", "published")
        found = {key: getattr(self, key) for key in own}
        found["values"] = {str(seed): round(value, 4) for seed, value in self.values.items()}
        if self.gain:
            found |= {"gain": self.gain.mean, "gain_seeds": len(self.gain.differences), "gain_p": self.gain.p_value}
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}


@dataclass(frozen=True)
class TableNumbers:
    """A whole table.

    Attributes:
        records: all records used.
        lacking: row -> why it cannot be run.
        empty: lines that can be run but have no record yet.
    """

    lines: Sequence[Line]
    records: Sequence[Record]
    lacking: Mapping[str, str]
    empty: Sequence[Line]


def table_numbers(name: str, study: Study, labels: Sequence[Budget] = (), only: Sequence[str] = ()) -> TableNumbers:
    """Return a table's lines from the records.

    Args:
        labels: budgets instead of the table's.
        only: rows; default: all.

    Raises:
        SsferError: records of different test images or label rules; unknown table or row.
    """
    catalogue, table = study.catalogue, study.catalogue.table(name)
    found = list(cells(catalogue, name, study.dataset, labels))
    if only:
        _check_known("row", only, {cell.name for cell in found})
        found = [cell for cell in found if cell.name in (*only, table.against)]
    rows = {c.name: c.row for c in found}
    missing = {row: why for row, content in rows.items() if (why := lacking(content, study))}
    reader = Reader(study)
    lines = []
    for cell in found:
        paper = beside(cell, catalogue, study.dataset)
        printed = paper.value if paper else None
        counts, values = counted(cell, study), {}
        if counts is None and cell.name not in missing:
            values = reader.values(cell, catalogue.points(table))
        lines.append(Line(cell.name, cell.budget.text, cell.point, values, printed, count=counts))
    check_comparable(reader.used)
    lines = chosen(_compared(lines, table.against), only)
    empty = [line for line in lines if line.mean is None and line.row not in missing]
    own = {beside(cell, catalogue, study.dataset) for cell in found}
    lines += (
        []
        if only
        else [
            Line(p.method, str(p), COUNTS.get(p.metric, ""), {}, p.value, published=True)
            for p in others(name, study.about, own, table.cited)
        ]
    )
    return TableNumbers(lines, reader.used, {row: missing[row] for row in missing if row in (only or rows)}, empty)


def chosen(lines: Sequence[Line], rows: Sequence[str] = (), column: str | None = None) -> list[Line]:
    """Return the lines of these rows (default: all) and of this point (default: all).

    Raises:
        SsferError: no line has such a row or point.
    """
    _check_known("row", rows, {line.row for line in lines})
    _check_known("column", [column] if column else [], {line.point for line in lines if line.point})
    return [line for line in lines if line.row in (rows or (line.row,)) and column in (None, line.point)]


def _check_known(what: str, names: Sequence[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise unknown_name(what, name, known)


def _compared(lines: Sequence[Line], against: str | None) -> list[Line]:
    """Return the lines with their gains over row `against`."""
    first = {(line.labels, line.point): line.values for line in lines if line.row == against}
    others = (first.get((line.labels, line.point), {}) if line.row != against else {} for line in lines)
    return [replace(line, gain=paired_seeds(other, line.values)) for line, other in zip(lines, others, strict=True)]


class Reader:
    """Look up the values of a study's cells by seed, and collect the records used."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.records = read_records(study.dataset)
        self.seeds = sorted({record.seed for record in self.records})
        self._used: dict[str, Record] = {}

    @property
    def used(self) -> list[Record]:
        """The records that values came from."""
        return list(self._used.values())

    def values(self, cell: Cell, points: Mapping[str, Any]) -> dict[int, float]:
        """Return seed -> percent; a computed cell has the seeds that all of its points have."""
        if not cell.content.sources:
            return {seed: v for seed in self.seeds if (v := self._value(cell, seed)) is not None}
        parts = [
            self.values(Cell(cell.table, cell.row, cell.name, cell.budget, point, points[point]), points)
            for point in cell.content.sources
        ]
        seeds = sorted(set.intersection(*map(set, parts)))
        if cell.content.minus:
            return {seed: parts[0][seed] - parts[1][seed] for seed in seeds}
        return {seed: statistics.fmean(part[seed] for part in parts) for seed in seeds}

    def record(self, cell: Cell, seed: int) -> Record | None:
        """Return the record of a cell's run with a seed; None without one that has the cell's figure."""
        experiment: Experiment = self.study.experiment(cell, seed)
        record = find_record(self.records, experiment, self.study.defaults, cell.stages)
        if record is None and experiment.settings["semisup.average"] is not None:
            # The student trains alike without an average beside it.
            experiment = replace(experiment, settings={**experiment.settings, "semisup.average": None})
            record = find_record(self.records, experiment, self.study.defaults, cell.stages)
        if record is None and cell.row.set.get("semisup.epochs") == 0:
            # The fine-tuned network is the same without an average beside it, whatever stage semisup makes of it. An
            # average is not: another run's may have another decay.
            if all("_ema/" in metric for metric in cell.metrics):
                return None
            experiment = self.study.experiment(replace(cell, row=cell.row.model_copy(update={"set": {}})), seed)
            record = find_record(self.records, experiment, self.study.defaults, cell.stages)
        return record if record and record.covers(experiment, self.study.defaults, cell.stages) else None

    def _value(self, cell: Cell, seed: int) -> float | None:
        if (record := self.record(cell, seed)) is None:
            return None
        value = next((v for metric in cell.metrics if (v := record.number(metric)) is not None), None)
        if value is None:
            return None
        self._used[record.name] = record
        return 100 * value


def counted(cell: Cell, study: Study) -> float | None:
    """Return what is counted of a cell's network, as table 6 counts; None for a measured cell."""
    if cell.content.count is None:
        return None
    found = _complexity(study.network(cell.row), len(study.prepared.data.class_list or ()) or PAPER_CLASSES)
    return found.paper_params / 1e6 if cell.content.count == "params_M" else found.paper_macs / 1e9


@cache
def _complexity(network: ModelSettings, classes: int) -> Complexity:
    from ssfer.evaluation.complexity import complexity  # imports torch, which most tables do not need

    return complexity(network, classes)
