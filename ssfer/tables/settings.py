"""Decide from settings whether two runs are the same experiment and whether their test results are comparable."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.registry import section_name
from ssfer.core.yaml import flatten, parse_yaml
from ssfer.datasets.registry import SOURCES
from ssfer.datasets.settings import DataSettings
from ssfer.faces.detectors.registry import DETECTORS
from ssfer.methods.registry import METHODS

# Sections of the stages that only measure trained models.
MEASURING = ("evaluate", "robustness")
OF_THE_MACHINE = ("machine", "report", "tracking")  # sections of params.yaml that are no part of an experiment
# Runs of one row differ in these. Pretraining, by far the longest stage, is shared unless --pretrain-seeds is given.
SEEDS = ("split.seed", "finetune.seed", "semisup.seed")
PRETRAIN_SEED = "pretrain.seed"
# Former settings that are constants now: a run with another value matches none of today's settings.
CONSTANTS = {
    "semisup.schedule": "constant",
    "methods.leaf.pseudo_from": "student",
    "methods.leaf.weighting": "concave",
    "methods.softmatch.n_sigma": 2.0,
    "methods.sitfer.ema_decay": None,
    **{f"methods.{name}.threshold_op": "ge" for name in ("ada_cm", "ccssl", "comatch", "leaf")},
    **{f"methods.{name}.threshold_op": "gt" for name in ("fixmatch", "flexmatch", "pseudo_label", "uda")},
}
# Of section pretrain only these count where nothing is pretrained (pretrain.epochs 0).
WEIGHTS_TAKEN_OVER = ("pretrain.epochs", "pretrain.init_from", "pretrain.init_sha256", PRETRAIN_SEED)
Settings = Mapping[str, Any]
_ABSENT = object()


def defaults() -> dict[str, Any]:
    """Return dotted key -> default of all settings that decide results (`science`), independent of params.yaml."""
    annotations = {name: field.annotation for name, field in Params.model_fields.items()}
    sections = {n: _defaults(a) for n, a in annotations.items() if isinstance(a, type) and issubclass(a, BaseModel)}
    sections["methods"] = {section_name(name): _defaults(METHODS[name].Settings) for name in METHODS}
    sections["detectors"] = {section_name(name): _defaults(DETECTORS[name].Settings) for name in DETECTORS}
    return dict(flatten(sections))


def same(wanted: Settings, found: Settings, default: Settings, stages: Collection[str] = ()) -> bool:
    """Return whether a run with settings `found` is the one that `wanted` describes.

    Settings of measuring stages count only for the named stages, those of pretraining only where it trains. A key that
    did not exist when the run was made has today's default. Of keys that no longer exist only `CONSTANTS` are compared.

    Args:
        wanted: dotted key -> value.
        found: dotted key -> value.
        default: of `defaults`.
        stages: measuring stages whose settings count.
    """
    if any(found.get(key, value) != value for key, value in CONSTANTS.items()):
        return False
    trains = wanted.get("pretrain.epochs") != 0
    looked_at = (
        key
        for key in wanted
        if ((section := key.partition(".")[0]) not in MEASURING or section in stages)
        and (trains or section != "pretrain" or key in WEIGHTS_TAKEN_OVER)
    )
    return all(_equal(key, wanted[key], found.get(key, default.get(key, _ABSENT))) for key in looked_at)


def parse_settings(items: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE items, values as in params.yaml.

    Raises:
        SsferError: an item that is not KEY=VALUE, or whose value is not YAML.
    """
    found: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)+", key):
            raise SsferError(f"--set expects section.key=value, such as finetune.epochs=2; found '{item}'")
        try:
            found[key] = parse_yaml(text, key)
        except SsferError as error:
            raise SsferError(f"--set {key}: '{text}' is not a value as params.yaml has them") from error
    return found


def label_difference(one: Settings, other: Settings) -> str:
    """Return the first key in which two label rules differ, and both values; "" if they agree.

    A key that did not exist yet has its default; a key that no longer exists is not compared.
    """
    a, b = _complete(one), _complete(other)
    for key in dict.fromkeys([*one, *other]):
        if key in a and key in b and a[key] != b[key]:
            return f"{key}: {a[key]} and {b[key]}"
    return ""


def is_trained(key: str) -> bool:
    """Return whether a setting decides training, not only measuring."""
    return key.partition(".")[0] not in MEASURING


def _equal(key: str, wanted: Any, found: Any) -> bool:
    if wanted == found or key != "data.sources" or found is _ABSENT or len(wanted) != len(found):
        return bool(wanted == found)
    completed = [{**_of_kind(one["kind"]), **one} for one in found]
    return all(same(*pair, {}) for pair in zip(wanted, completed, strict=True))


def _complete(rule: Settings) -> dict[str, Any]:
    """Return a label rule, completed with defaults."""
    kinds = {key.removesuffix(".kind"): kind for key, kind in rule.items() if key.endswith(".kind")}
    own = {f"{name}.{key}": value for name, kind in kinds.items() for key, value in flatten(_of_kind(kind))}
    return {**_defaults(DataSettings), **own, **rule}


def _of_kind(kind: str) -> dict[str, Any]:
    return _defaults(SOURCES[kind].Settings) if kind in SOURCES else {}


def _defaults(section: type[BaseModel]) -> dict[str, Any]:
    """Return the defaults of a section's fields as JSON values, without fields that have no default."""
    return section.model_construct().model_dump(mode="json")
