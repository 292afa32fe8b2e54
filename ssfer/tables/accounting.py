"""Which printed results of the paper belong to a row and which are cited from other papers; none may be left over."""

from dataclasses import dataclass

from ssfer.tables.beside import beside, printed_numbers
from ssfer.tables.catalogue import Catalogue
from ssfer.tables.paper import Printed
from ssfer.tables.plan import cells


@dataclass(frozen=True)
class Account:
    """Count the printed results of one table, or of all.

    Attributes:
        rows: belong to a row that can be run.
        cited: of methods of other papers, which the catalogue names.
        left: neither.
    """

    rows: tuple[Printed, ...]
    cited: tuple[Printed, ...]
    left: tuple[Printed, ...]

    @property
    def printed(self) -> int:
        """Return how many results the paper prints."""
        return len(self.rows) + len(self.cited) + len(self.left)

    def __str__(self) -> str:
        done = len(self.rows) + len(self.cited)
        return (
            f"{done} of {self.printed} printed results accounted for: {len(self.rows)} beside a row, "
            f"{len(self.cited)} cited"
        )


def account(catalogue: Catalogue, table: str | None = None) -> Account:
    """Return the account of a table, or of all tables; data sets of a smaller recipe do not count."""
    rows = {
        found
        for name in ([table] if table else catalogue.tables)
        for dataset in catalogue.about(name)
        if catalogue.dataset(dataset).recipe == "paper"
        for cell in cells(catalogue, name, dataset)
        if (found := beside(cell, catalogue, dataset)) is not None
    }
    wanted = [p for p in printed_numbers() if table in (None, p.table)]
    others = [p for p in wanted if p not in rows]
    cited = {p for p in others if p.table in catalogue.tables and p.method in catalogue.table(p.table).cited}
    return Account(
        tuple(p for p in wanted if p in rows),
        tuple(p for p in others if p in cited),
        tuple(p for p in others if p not in cited),
    )
