"""Count the statuses of the inputs, for the summary that a command prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from ssfer.core.errors import printable
from ssfer.core.images import undecodable
from ssfer.datasets.shared.archives import MAX_FILE_BYTES
from ssfer.predict.frames import FLOAT_PIXELS, MAX_PIXELS
from ssfer.predict.table import Row

_NAMED = 3  # most inputs named per status
_ADVICE = {
    FLOAT_PIXELS: "floating-point numbers have no defined white; save such pictures with 8 or 16 bits",
    "refused": "zip files that are damaged, locked, or whose members would leave their folder; unpack them and name "
    "the folder",
    "too_large": f"more than {MAX_PIXELS:,} pixels or {MAX_FILE_BYTES >> 20} MiB; save them smaller",
}


@dataclass
class Summary:
    """Numbers of pictures, faces and statuses, some names of inputs without a face, endings of unreadable ones."""

    statuses: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)
    endings: Counter[str] = field(default_factory=Counter)
    pictures: int = 0
    seconds: float = 0.0

    def add(self, rows: Sequence[Row]) -> None:
        """Add the rows of one picture."""
        self.pictures += 1
        for row in rows:
            self.statuses[row["status"]] += 1
            if row["status"] == "unreadable":
                self.endings[PurePath(row["input"]).suffix] += 1
            names = self.names.setdefault(row["status"], [])
            if row.get("face") is None and len(names) < _NAMED and row["input"] not in names:
                names.append(row["input"])

    @property
    def faces(self) -> int:
        """Return the number of faces."""
        return self.statuses["ok"] + self.statuses["uncertain"]

    @property
    def speed(self) -> str:
        """Return faces per second, as text."""
        return f"{self.faces / max(self.seconds, 1e-9):.1f} faces/s"

    def lines(self) -> list[str]:
        """Return lines of text: one with the counts, then one per status of inputs without a face."""
        found = f"{_counted(self.faces, 'face')} in {_counted(self.pictures, 'picture')}, {self.speed}"
        if self.statuses["uncertain"]:
            found += f"; {self.statuses['uncertain']:,} of them uncertain"
        lines = [found, *(self._line(status, names) for status, names in self.names.items() if names)]
        missing = undecodable(self.endings.elements())
        return [*lines, missing] if missing else lines

    def _line(self, status: str, names: list[str]) -> str:
        count = self.statuses[status]
        advice = f"; {_ADVICE[status]}" if status in _ADVICE else ""
        named = printable(", ".join(names), "")
        return f"{status}: {count:,} ({named}{', ...' if count > len(names) else ''}){advice}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
