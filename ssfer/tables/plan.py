"""Turn a table's rows into experiments: complete settings, the flags for DVC, and a name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ssfer.config.identity import label_rule, science
from ssfer.config.profiles import merge, read_profile, resolve
from ssfer.config.schema import PARAMS_FILE, Params, parse_params
from ssfer.core.errors import SsferError
from ssfer.core.files import read_json, sha256_file, sha256_json
from ssfer.core.yaml import flatten
from ssfer.models.settings import ModelSettings
from ssfer.rendered.settings import SYNTHETIC
from ssfer.tables.budget import Budget
from ssfer.tables.catalogue import Catalogue, Dataset, Overrides, Point, Row, Table
from ssfer.tables.settings import OF_THE_MACHINE, PRETRAIN_SEED, SEEDS, defaults, is_trained


@dataclass(frozen=True)
class Cell:
    """One cell of a table: a row, a label budget and a point of the table's axis ("" without one)."""

    table: str
    row: Row
    name: str
    budget: Budget
    point: str
    content: Point

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the paths of the cell's value in the metrics files; the first that is there counts."""
        return self.row.paths(self.point, self.content)

    @property
    def stages(self) -> tuple[str, ...]:
        """Return the stages whose metrics it needs."""
        return tuple(dict.fromkeys(("evaluate", self.metrics[0].partition("/")[0])))


@dataclass(frozen=True)
class Experiment:
    """One run of the pipeline.

    Attributes:
        name: of the DVC experiment and the record; a hash of all settings except the seeds makes it unique.
        flags: dotted settings that differ from params.yaml, for `dvc exp run -S`.
        settings: `ssfer.config.identity.science` of `params`.
    """

    name: str
    dataset: str
    labels: str
    seed: int
    fold: int | None
    params: Params
    flags: Overrides = field(compare=False)
    settings: dict[str, Any] = field(compare=False)


class Study:
    """A data set's settings plus those of the command line; makes the experiment of every cell.

    Args:
        catalogue: of data sets and tables.
        dataset: its name in the catalogue.
        presets: profiles applied after the data set's.
        extra: dotted settings that override all others, those of rows included.
        pretrain_seeds: also vary the seed of pretraining.

    Raises:
        SsferError: unknown names, invalid values, or params.yaml is of another data set.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        dataset: str,
        presets: Sequence[str] = (),
        extra: Overrides | None = None,
        pretrain_seeds: bool = False,
    ) -> None:
        self.catalogue, self.dataset, self.extra = catalogue, dataset, extra or {}
        self.presets, self.pretrain_seeds = tuple(presets), pretrain_seeds
        self.about: Dataset = catalogue.dataset(dataset)
        for key in self.extra:
            if key in (*SEEDS, *Budget("1", "").settings):
                raise SsferError(f"--set {key}: seeds are chosen by --first-seed and --seeds, budgets by --labels")
        document, _ = resolve([])
        self._own, self.defaults = _plain(document), defaults()
        self._base = _over(self._own, self.about.profiles)
        self._usual = _trained(self._with(catalogue.common)[1], every_method=True)
        self._base = _over(self._base, presets)
        params = self.prepared
        if self.about.raw not in (None, params.data.raw):
            raise SsferError(
                f"{PARAMS_FILE} holds the data set '{params.data.raw}', but '{dataset}' is {PARAMS_FILE} as it comes "
                f"with ssfer (data.raw {self.about.raw}): --dataset own runs yours, git checkout {PARAMS_FILE} brings "
                f"'{dataset}' back"
            )

    @property
    def profiles(self) -> tuple[str, ...]:
        """Return the data set's profiles, then the presets."""
        return (*self.about.profiles, *self.presets)

    @cached_property
    def prepared(self) -> Params:
        """Return the params whose faces all experiments of this study share."""
        return self._with(self.extra)[1]

    def experiment(self, cell: Cell, seed: int) -> Experiment:
        """Return the experiment that a cell needs for a seed; `cell` must be a measured one.

        Raises:
            SsferError: invalid settings.
        """
        chosen = {**self.catalogue.common, **cell.budget.settings, **_row_settings(cell.row), **cell.content.set}
        seeded = (*SEEDS, PRETRAIN_SEED) if self.pretrain_seeds else SEEDS
        chosen |= dict.fromkeys(seeded, seed) | self.extra
        raw, params = self._with(chosen)
        settings = science(params)
        own = dict(flatten(self._own))
        flags = {k: v for k, v in flatten(raw) if v != own.get(k, ...)}
        told = {*SEEDS, *cell.budget.settings}
        varied = {k: v for k, v in _trained(params).items() if k not in told and v != self._usual.get(k, ...)}
        everything = {**settings, "data.label_rule": label_rule(params)}
        name = _name(
            self.dataset, cell.budget.text, seed, varied, {k: v for k, v in everything.items() if k not in SEEDS}
        )
        return Experiment(name, self.dataset, cell.budget.text, seed, params.split.fold, params, flags, settings)

    def network(self, row: Row) -> ModelSettings:
        """Return the network that a row trains."""
        return self._with({**self.catalogue.common, **_fixed_settings(row)} | self.extra)[1].model

    def _with(self, chosen: Overrides) -> tuple[dict[str, Any], Params]:
        raw = deepcopy(self._base)
        for key, value in chosen.items():
            *sections, last = key.split(".")
            nested: Any = {last: value}
            for section in reversed(sections):
                nested = {section: nested}
            merge(raw, nested, "these settings")
        return raw, parse_params(raw, f"settings of '{self.dataset}'")


def present_dataset(catalogue: Catalogue) -> str:
    """Return the data set that params.yaml holds: the one whose profiles would change nothing in it, else demo or own.

    Raises:
        SsferError: params.yaml is missing or is not YAML.
    """
    document, _ = resolve([])
    base = _plain(document)
    if (base.get("data") or {}).get("raw") == SYNTHETIC:
        return "demo"
    for name, about in catalogue.datasets.items():
        other = _over(base, about.profiles)
        if about.profiles and all(other[key] == base[key] for key in base if key not in OF_THE_MACHINE):
            return name
    return "own"


def _over(base: dict[str, Any], profiles: Sequence[str]) -> dict[str, Any]:
    """Return settings with profiles laid over them."""
    found = deepcopy(base)
    for name in profiles:
        merge(found, _plain(read_profile(name)), f"profiles/{name}.yaml")
    return found


def cells(catalogue: Catalogue, name: str, dataset: str, labels: Sequence[Budget] = ()) -> Iterator[Cell]:
    """Yield all cells of a table on a data set, row by row, computed ones included.

    Args:
        catalogue: of data sets and tables.
        name: of the table.
        dataset: its name in the catalogue.
        labels: budgets instead of the table's.
    """
    table: Table = catalogue.table(name)
    recipe = catalogue.dataset(dataset).recipe
    own = catalogue.budgets(name, dataset)
    for row_name, row in table.rows.items():
        if row.recipe not in (None, recipe):
            continue
        for budget in labels or row.labels or own:
            for point, content in catalogue.points(table).items():
                yield Cell(name, row, row_name, budget, point, content)


def lacking(row: Row, study: Study) -> str | None:
    """Return why a row cannot be run here: a file it needs is missing or of other settings; None if it can be run."""
    if row.start and not Path(row.start).is_file():
        return f"{row.start} is missing (`ssfer fetch {Path(row.start).stem}` gets it, docs/howto/experiments.md)"
    if row.search:
        if not Path(row.search).is_file():
            return f"{row.search} is missing (`ssfer search lr` writes it)"
        present = read_json(Path(row.search))["search"]["present"]["rates"]
        if any(getattr(study.prepared.finetune, key) != value for key, value in present.items()):
            return f"{row.search} is a search around other learning rates than those of '{study.dataset}'"
    return None


def _fixed_settings(row: Row) -> Overrides:
    """Return the settings of a row and its profiles, without those from `start` and `search`."""
    profiles = (dict(flatten(_plain(read_profile(name)))) for name in row.profiles)
    return {k: v for found in (*profiles, row.set) for k, v in found.items()}


def _row_settings(row: Row) -> Overrides:
    found = _fixed_settings(row)
    if row.start:
        found |= {
            "pretrain.init_from": row.start,
            "pretrain.init_sha256": _sha256(row.start, Path(row.start).stat().st_mtime_ns),
        }
    if row.search:
        rates = read_json(Path(row.search))["search"]["best"]["rates"]
        found |= {f"finetune.{key}": value for key, value in rates.items()}
    return found


@cache  # many cells start from the same file, which may have a gigabyte
def _sha256(path: str, changed: int) -> str:
    return sha256_file(Path(path))


def _trained(params: Params, every_method: bool = False) -> dict[str, Any]:
    trained = {key: value for key, value in science(params, every_method).items() if is_trained(key)}
    return {**trained, "data.label_rule": label_rule(params)}


def _name(dataset: str, labels: str, seed: int, varied: Overrides, everything: Overrides) -> str:
    """Return e.g. demo-10pct-mode-none-1c9f3a0b-s2024: varied settings as words, and a hash of all settings."""
    words = [f"{key.rpartition('.')[2]}-{value}" for key, value in sorted(varied.items())]
    short = re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")[:40].strip("-") or "base"
    budget = re.sub(r"[^0-9a-z]+", "-", labels.replace("%", "pct").replace("/class", "each"))
    return f"{dataset}-{budget}-{short}-{sha256_json([dataset, labels, everything])[:8]}-s{seed}"


def _plain(node: Any) -> Any:
    """Return a round-trip document as plain values."""
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node
