"""Figures of the catalogue's rows by seed, for the page on the paper's claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ssfer.tables.budget import parse_budget
from ssfer.tables.catalogue import catalogue
from ssfer.tables.numbers import Reader
from ssfer.tables.plan import Cell, Study, cells

ARMS = {"scratch", "plain", "mixup", "facemix"}  # networks of fine-tuning


class Records:
    """Figures of rows by seed, of one data set; the working directory is the project."""

    def __init__(self, dataset: str) -> None:
        self.study = Study(catalogue(), dataset)
        self.reader = Reader(self.study)

    def values(
        self, table: str, row: str, metric: str | None = None, labels: str = "10%", point: str = ""
    ) -> dict[int, float]:
        """Return seed -> percent."""
        cell = self._cell(table, row, labels, point)
        if metric:
            cell = replace(cell, row=cell.row.model_copy(update={"metric": metric}))
        return self.reader.values(cell, {})

    def _cell(self, table: str, row: str, labels: str, point: str) -> Cell:
        found = cells(self.study.catalogue, table, self.study.dataset, [parse_budget(labels)])
        (cell,) = (cell for cell in found if (cell.name, cell.point) == (row, point))
        return cell

    def apart(self, table: str, rows: Sequence[str], point: str = "", labels: str = "10%") -> str:
        """Return a sentence if the two rows' runs of a seed started from different weights; else an empty text.

        The fine-tuned networks that both tested tell, or, without a common one, the pretrained weights. They differ
        between kinds of CPU, even with the same settings and seed.
        """
        both = [self._cell(table, row, labels, point) for row in rows]
        apart = shared = 0
        for seed in self.reader.seeds:
            one, two = (self.reader.record(cell, seed) for cell in both)
            if one is None or two is None:
                continue
            first, second = (record.metrics["evaluate"]["models"] for record in (one, two))
            tuned = first.keys() & second.keys() & ARMS
            shared += 1
            apart += one.pretrained != two.pretrained or any(first[k]["last"] != second[k]["last"] for k in tuned)
        text = f"With {apart} of {shared} seeds the two start from different weights (under Seeds, below)."
        return text if apart else ""

    @property
    def tests(self) -> int:
        """Number of test images of the records used."""
        return max((int(record.test["images"]) for record in self.reader.used), default=0)
