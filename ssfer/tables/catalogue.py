"""Read and check the catalogue of experiments, catalogue.yaml."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.yaml import read_yaml
from ssfer.tables.budget import Budget, parse_budget
from ssfer.tables.settings import MEASURING

CATALOGUE = Path(__file__).parent / "catalogue.yaml"
Overrides = dict[str, Any]  # dotted params key -> value


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _budgets(value: Any) -> Any:
    return tuple(parse_budget(item) for item in value) if isinstance(value, list) else value


class Dataset(_Entry):
    """A data set for `--dataset`: profiles applied to params.yaml, and the paper's name for it.

    Attributes:
        raw: the data.raw that params.yaml itself must have if no profile sets it.
        where: entries of the `setting` column of paper_tables.csv that select this data set.
    """

    title: str
    recipe: Literal["paper", "own"] = "own"
    raw: str | None = None
    profiles: tuple[str, ...] = ()
    paper: str | None = None
    where: dict[str, str] = {}
    labels: tuple[Budget, ...]

    _read = field_validator("labels", mode="before")(_budgets)


class Point(_Entry):
    """One column of an axis: measured with some settings, computed from other points, or counted.

    Attributes:
        set: settings of the runs in this column, over the row's.
        end: appended to the path of the row's metric; of several, the first that a record has.
        mean_of: points whose mean this one is.
        minus: two points whose difference this one is.
        count: counted of the row's network as the paper does, instead of measured: parameters in millions ("params_M")
            or multiply-accumulates in billions ("flops_G"); also the name of the printed metric.
        paper: entries of the `setting` column of paper_tables.csv; None: no number is printed for this column.
    """

    set: Overrides = {}
    end: str | tuple[str, ...] = ""
    mean_of: tuple[str, ...] = ()
    minus: tuple[str, str] | None = None
    count: Literal["params_M", "flops_G"] | None = None
    paper: dict[str, str] | None = {}

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the points it is computed from; empty unless it is computed."""
        return self.minus or self.mean_of

    @property
    def measured(self) -> bool:
        """Return whether a run of the pipeline measures the value."""
        return not (self.sources or self.count)


Metric = Annotated[str, Field(pattern=rf"^({'|'.join(MEASURING)})(/[\w.-]+)+$")]


class Row(_Entry):
    """One line of a table.

    Attributes:
        set: settings of the row, over those of `profiles`.
        profiles: names of profiles.
        labels: budgets instead of the table's.
        metric: path of the value in the metrics files, such as evaluate/headline/accuracy; its beginning where the
            table's points have an `end`; or, by point, paths of which the first that a record has counts.
        method: the row's name in paper_tables.csv; None: not in the paper.
        paper: entries of the `setting` column of paper_tables.csv.
        recipe: only for data sets of this recipe; None: for all.
        start: weights file that pretraining starts from; without the file the row is left out.
        search: result of `ssfer search lr` whose rates are the row's settings; without the file the row is left out.
    """

    set: Overrides = {}
    profiles: tuple[str, ...] = ()
    labels: tuple[Budget, ...] | None = None
    metric: Metric | dict[str, Annotated[tuple[Metric, ...], Field(min_length=1)]]
    method: str | None = None
    paper: dict[str, str] = {}
    recipe: Literal["paper", "own"] | None = None
    start: str | None = None
    search: str | None = None

    _read = field_validator("labels", mode="before")(_budgets)

    def paths(self, point: str, content: Point) -> tuple[str, ...]:
        """Return the paths of its value at a point of this content; the first that a record has counts."""
        if not isinstance(self.metric, str):
            return self.metric[point]
        ends = (content.end,) if isinstance(content.end, str) else content.end
        return tuple(f"{self.metric}/{end}" if end else self.metric for end in ends)

    def measured(self, rest: str) -> str:
        """Return in words where the values are; `rest` stands for the ends of the table's points."""
        if isinstance(self.metric, str):
            return f"{self.metric}{rest}"
        return "; ".join(f"{point}: {' or '.join(paths)}" for point, paths in self.metric.items())


class Table(_Entry):
    """Rows, the label budgets they are run with, and where the paper prints them.

    Attributes:
        datasets: the data sets it can be run on; None: all.
        labels: budgets instead of the data set's own, for all data sets or by data set.
        cited: methods whose printed numbers come from other papers; shown with the rows, but not run.
        against: the row that the others are compared with, seed by seed.
    """

    title: str
    rows: dict[str, Row] = Field(min_length=1)
    datasets: tuple[str, ...] | None = None
    labels: tuple[Budget, ...] | dict[str, tuple[Budget, ...]] | None = None
    axis: str | None = None
    paper: dict[str, str] = {}
    cited: tuple[str, ...] = ()
    against: str | None = None

    @field_validator("labels", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return {k: _budgets(v) for k, v in value.items()} if isinstance(value, dict) else _budgets(value)


class Catalogue(_Entry):
    """All of catalogue.yaml."""

    first_seed: Annotated[int, Field(ge=0)]
    common: Overrides
    datasets: dict[str, Dataset]
    axes: dict[str, dict[str, Point]]
    baselines: dict[str, Row]  # rows of several tables
    tables: dict[str, Table]

    @model_validator(mode="after")
    def _check(self) -> Catalogue:
        for name, points in self.axes.items():
            for point, content in points.items():
                for source in content.sources:
                    if source not in points or points[source].sources:
                        raise ValueError(f"axis '{name}': point '{point}' needs the measured point '{source}'")
        for name, table in self.tables.items():
            if table.axis is not None and table.axis not in self.axes:
                raise ValueError(str(unknown_name(f"axis of {name}", table.axis, self.axes)))
            if table.against is not None and table.against not in table.rows:
                raise ValueError(str(unknown_name(f"row of {name}", table.against, table.rows)))
            for row, own in table.rows.items():
                if isinstance(own.metric, dict) and own.metric.keys() != self.points(table).keys():
                    raise ValueError(
                        f"row '{row}' of {name}: its metric needs the points {', '.join(self.points(table))}"
                    )
            by_data = table.labels if isinstance(table.labels, dict) else {}
            for dataset in (*(table.datasets or ()), *by_data):
                if dataset not in self.datasets:
                    raise ValueError(str(unknown_name(f"data set of {name}", dataset, self.datasets)))
        return self

    def table(self, name: str) -> Table:
        """Return a table; SsferError lists the known ones."""
        if name not in self.tables:
            raise unknown_name("table", name, self.tables)
        return self.tables[name]

    def dataset(self, name: str) -> Dataset:
        """Return a data set; SsferError lists the known ones."""
        if name not in self.datasets:
            raise unknown_name("data set", name, self.datasets)
        return self.datasets[name]

    def points(self, table: Table) -> dict[str, Point]:
        """Return a table's columns; without an axis one column named ""."""
        return self.axes[table.axis] if table.axis else {"": Point()}

    def about(self, name: str) -> tuple[str, ...]:
        """Return the data sets a table can be run on."""
        table = self.table(name)
        return table.datasets or (tuple(table.labels) if isinstance(table.labels, dict) else tuple(self.datasets))

    def budgets(self, name: str, dataset: str) -> tuple[Budget, ...]:
        """Return the label budgets of a table on a data set.

        Raises:
            SsferError: the table cannot be run on this data set.
        """
        table, own, about = self.table(name), self.dataset(dataset), self.about(name)
        if dataset not in about:
            raise SsferError(f"{name} ({table.title}) is about {', '.join(about)}; found '{dataset}'")
        if isinstance(table.labels, dict):
            return table.labels[dataset]
        return table.labels or own.labels


def read_catalogue(path: Path = CATALOGUE) -> Catalogue:
    """Read and check a catalogue.

    Raises:
        SsferError: missing file, not YAML, unknown or contradictory entries.
    """
    try:
        return Catalogue.model_validate(read_yaml(path))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise SsferError(f"{path.name}: '{place}': {problem['msg'].removeprefix('Value error, ')}") from error


@cache
def catalogue() -> Catalogue:
    """Return the catalogue that comes with ssfer."""
    return read_catalogue()
