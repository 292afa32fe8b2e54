"""Label budgets as people write them: 10% or 0.1 of each class, 25/class, or a total such as 400."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ssfer.core.errors import SsferError

KEYS = {"%": "split.labeled_fraction", "/class": "split.labeled_per_class", "": "split.labeled_total"}


@dataclass(frozen=True)
class Budget:
    """A number of labels: `count` in `unit`, which is "%" of each class, "/class" (images per class) or "" (in total).

    Different notations of one budget are equal: 0.1, 10% and 10.0%.
    """

    count: str
    unit: str

    @property
    def text(self) -> str:
        """Return the budget in the catalogue's notation."""
        return f"{self.count}{self.unit}"

    @property
    def settings(self) -> dict[str, Any]:
        """Return the budget's three settings by dotted key; two of them are None."""
        value = float(self.count) / 100 if self.unit == "%" else int(self.count)
        return {key: value if unit == self.unit else None for unit, key in KEYS.items()}


def parse_budget(text: str) -> Budget:
    """Read a label budget.

    Raises:
        SsferError: none of the three notations, or out of range.
    """
    text = str(text).strip()
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)%", text):
        share = float(found[1])
    elif re.fullmatch(r"[01]?\.\d+", text):
        share = float(text) * 100
    elif found := re.fullmatch(r"([1-9]\d*)(/class)?", text):
        return Budget(found[1], found[2] or "")
    else:
        raise SsferError(f"'{text}' is no label budget: give 10% or 0.1 of each class, 25/class, or a total like 400")
    if not 0 < share <= 100:
        raise SsferError(f"a label budget is more than 0% and at most 100%, found '{text}'")
    return Budget(f"{share:.10g}", "%")
