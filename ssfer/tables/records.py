"""Read and write results as small JSON files, metrics/experiments/<data set>/<name>.json, which can be committed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ssfer.config.identity import label_rule
from ssfer.core.errors import SsferError
from ssfer.core.files import read_json, sha256_json, write_json
from ssfer.core.yaml import flatten
from ssfer.tables.plan import Experiment
from ssfer.tables.settings import label_difference, same

FOLDER = Path("metrics/experiments")
SUPERSEDED = "superseded"  # subfolder for records that a later run of the same settings contradicts
VERSION = 1
# Settings that decide the pretrained weights, by the beginning of their names.
WHAT_PRETRAINS = ("generate", "align", "corpus", "data.", "model", "pretrain")


@dataclass(frozen=True)
class Record:
    """One finished experiment; rates are 0..1.

    Attributes:
        commit: of the code, with "-dirty" if tracked code differed from it.
        settings: complete, of `ssfer.config.identity.science`.
        label_rule: of `ssfer.config.identity.label_rule`.
        split: hash and sizes of the parts.
        test: number of test images and sha256 over their sorted ids.
        metrics: stage -> content of metrics/<stage>.json below the stage's own key.
        pretrained: DVC's hash of the pretrained weights; runs with equal settings of pretraining should share them.
        identity: stage -> hash of its settings, code and files (data/identity); None in records of an older ssfer.
        outputs: path -> DVC's hash of what the stages wrote; None in records of an older ssfer.
        confusion: "model", "classes", and "counts" of test images, a row per true class; None in older records.
        computed: "device" (cpu, cuda, mps), "precision", "threads" and "torch", by the run's settings on the machine
            that recorded it. It does not say where DVC found a stage in its cache. None in older records, or if that
            machine has no such device. It is part of no name and of no comparison of settings.
    """

    name: str
    dataset: str
    labels: str
    seed: int
    fold: int | None
    commit: str
    settings: Mapping[str, Any]
    label_rule: Mapping[str, Any]
    split: Mapping[str, Any]
    test: Mapping[str, Any]
    metrics: Mapping[str, Any]
    pretrained: str | None = None
    version: int = VERSION
    identity: Mapping[str, str] | None = None
    outputs: Mapping[str, str] | None = None
    confusion: Mapping[str, Any] | None = None
    computed: Mapping[str, Any] | None = None

    def is_of(self, experiment: Experiment, defaults: Mapping[str, Any]) -> bool:
        """Return whether the experiment's settings were trained; `defaults` as in `ssfer.tables.settings.same`."""
        return same(experiment.settings, self.settings, defaults)

    def number(self, metric: str) -> float | None:
        """Return a value by its path, such as evaluate/models/teacher/last/accuracy; None if it is missing."""
        node: Any = self.metrics
        for part in metric.split("/"):
            node = node.get(part) if isinstance(node, Mapping) else None
        return float(node) if isinstance(node, int | float) else None

    def covers(self, experiment: Experiment, defaults: Mapping[str, Any], stages: Collection[str]) -> bool:
        """Return whether it also has these stages' metrics, measured with the experiment's settings."""
        measured = all(stage in self.metrics for stage in stages)
        return measured and same(experiment.settings, self.settings, defaults, stages)

    def has_labels_of(self, experiment: Experiment) -> bool:
        """Return whether the labels were made by the experiment's rule."""
        return not label_difference(label_rule(experiment.params), self.label_rule)

    def repeats(self, other: Record, defaults: Mapping[str, Any]) -> bool:
        """Return whether it records a run with the same settings and labels as `other`."""
        alike = same(self.settings, other.settings, defaults, self.metrics)
        return alike and not label_difference(self.label_rule, other.label_rule)

    def confirms(self, other: Record) -> bool:
        """Return whether it has every metric of `other` with the same value, on the same test images."""
        own, others = dict(flatten(self.metrics)), dict(flatten(other.metrics))
        return self.test == other.test and others.items() <= own.items()


def path_of(dataset: str, name: str) -> Path:
    """Return the path of a record."""
    return FOLDER / dataset / f"{name}.json"


def write_record(record: Record, defaults: Mapping[str, Any]) -> Path:
    """Write a record atomically; return its path.

    It replaces an earlier record of the same settings or name if it confirms all metrics of that record. What computed
    the earlier one is then kept, because DVC may have restored the stages from its cache. Otherwise the earlier record
    is moved to the subfolder `superseded`, and one line says so.
    """
    path, replaced = path_of(record.dataset, record.name), []
    for earlier in read_records(record.dataset):
        old, repeats = path_of(earlier.dataset, earlier.name), record.repeats(earlier, defaults)
        if not repeats and old != path:
            continue
        replaced.append(old)
        if repeats and record.confirms(earlier):
            record = replace(record, computed=earlier.computed)
        else:
            aside = old.parent / SUPERSEDED / f"{earlier.name}-{sha256_json(asdict(earlier))[:8]}.json"
            write_json(aside, asdict(earlier))
            print(f"{old} has other results than this run; it was moved to {aside}", flush=True)
    write_json(path, asdict(record))
    for old in replaced:
        if old != path:
            old.unlink()
    return path


def read_records(dataset: str) -> list[Record]:
    """Return all records of a data set, by name.

    Raises:
        SsferError: a file that is not a record of this version.
    """
    return [_read(path) for path in sorted((FOLDER / dataset).glob("*.json"))]


def find_record(
    records: Sequence[Record], experiment: Experiment, defaults: Mapping[str, Any], stages: Collection[str]
) -> Record | None:
    """Return the record of an experiment; one with its label rule is preferred, then one that covers the stages.

    Raises:
        SsferError: several records with different results.
    """

    def fit(record: Record) -> tuple[bool, bool]:
        return record.has_labels_of(experiment), record.covers(experiment, defaults, stages)

    found = [record for record in records if record.is_of(experiment, defaults)]
    best = max(map(fit, found), default=None)
    found = [record for record in found if fit(record) == best]
    figures = [{stage: record.metrics.get(stage) for stage in stages} for record in found]
    for record, other in zip(found[1:], figures[1:], strict=True):
        if other != figures[0]:
            places = " and ".join(str(path_of(r.dataset, r.name)) for r in (found[0], record))
            raise SsferError(
                f"{places} are records of the same settings and seed with different results; move one of them to "
                f"{FOLDER / record.dataset / SUPERSEDED}"
            )
    return found[0] if found else None


def check_comparable(records: Sequence[Record]) -> None:
    """Check that runs have the same test images (per fold) and label rule.

    Raises:
        SsferError: names two runs and what differs.
    """
    first: dict[int | None, Record] = {}
    for record in records:
        other = first.setdefault(record.fold, record)
        rule = label_difference(other.label_rule, record.label_rule)
        if rule:
            what = f"different label rules ({rule})"
        elif record.test != other.test:
            what = f"different test images ({other.test['images']:,} and {record.test['images']:,})"
        else:
            continue
        raise SsferError(
            f"{other.name} and {record.name} have {what} and cannot be compared; run one of them again (--again), or "
            f"move its record out of {FOLDER / record.dataset}"
        )


def pretrained_apart(records: Sequence[Record]) -> int:
    """Return how many different pretrained weights runs with the same settings of pretraining used; 1 is right.

    Experiments use the pretrained weights they find in the project. Weights of another machine, or left over from a
    trial, would look like variation between seeds.
    """
    return _most_apart((_settings(r, WHAT_PRETRAINS), r.pretrained) for r in records if r.pretrained is not None)


def splits_apart(records: Sequence[Record]) -> int:
    """Return how many different splits runs with the same settings of the split were trained on; 1 is right.

    Faces of which one more counts as a copy of a test image are enough to draw other labels.
    """
    return _most_apart(([r.labels, r.seed, r.fold, _settings(r, "split.")], r.split["hash"]) for r in records)


def precisions(records: Sequence[Record]) -> list[str]:
    """Return the different precisions that runs were computed in, sorted; records that do not say it are left out."""
    return sorted({str(r.computed["precision"]) for r in records if r.computed is not None})


def _settings(record: Record, beginning: str | tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in record.settings.items() if key.startswith(beginning)}


def _most_apart(found: Iterable[tuple[Any, str]]) -> int:
    """Return the largest number of different results of one cause, of pairs of both; 1 without any."""
    results: dict[str, set[str]] = {}
    for cause, result in found:
        results.setdefault(json.dumps(cause, sort_keys=True), set()).add(result)
    return max(map(len, results.values()), default=1)


def _read(path: Path) -> Record:
    content = read_json(path)
    try:
        record = Record(**content)
    except TypeError as error:
        raise SsferError(f"{path} is no record of an experiment ({error}); run it again or restore the file") from error
    if record.version != VERSION:
        raise SsferError(f"{path} has version {record.version}, this ssfer reads version {VERSION}; run it again")
    if path != path_of(record.dataset, record.name):
        raise SsferError(f"{path} holds the record of {path_of(record.dataset, record.name)}; move it there")
    return record
