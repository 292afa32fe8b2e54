"""The numbers that the paper (SSFER) prints, from paper_tables.csv."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLES = Path(__file__).with_name("paper_tables.csv")


@dataclass(frozen=True)
class Printed:
    """One printed number, accuracies in percent; `setting` has (name, value) pairs, such as label budget or fold."""

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


@dataclass(frozen=True)
class PaperRow:
    """A row of table 6: parameters in millions, GMACs (which the paper calls GFLOPs), accuracy on RAF-DB in percent."""

    method: str
    params_m: float
    flops_g: float
    accuracy_percent: float


def paper_rows() -> list[PaperRow]:
    """Return table 6 as printed, in its order."""
    found: dict[str, dict[str, float]] = {}
    for number in printed():
        if number.table == "table6":
            found.setdefault(number.method, {})[number.metric] = number.value
    return [PaperRow(method, v["params_M"], v["flops_G"], v["accuracy_percent"]) for method, v in found.items()]
