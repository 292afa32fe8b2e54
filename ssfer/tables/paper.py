"""The numbers that the paper (SSFER) prints, out of paper_tables.csv."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLES = Path(__file__).with_name("paper_tables.csv")


@dataclass(frozen=True)
class Printed:
    """One number as printed, accuracies in percent. `setting` holds label budget, fold, and so on by name."""

    table: str  # "table2"
    dataset: str
    method: str
    setting: tuple[tuple[str, str], ...]
    metric: str
    value: float

    def __str__(self) -> str:
        return "; ".join(f"{key}={value}" for key, value in self.setting)


@cache
def printed() -> tuple[Printed, ...]:
    """Return all numbers, in the order of the tables."""
    with open(TABLES, newline="") as file:
        return tuple(
            Printed(
                f"table{row['table']}",
                row["dataset"],
                row["method"],
                tuple((k, v) for k, _, v in (part.partition("=") for part in row["setting"].split(";"))),
                row["metric"],
                float(row["value"]),
            )
            for row in csv.DictReader(file)
        )
