"""Every setting with wrong and extreme values: refused in one sentence before work, or something a run can follow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache, reduce
from itertools import islice
from pathlib import Path
from typing import Any

from ssfer.config.preflight import preflight
from ssfer.config.schema import Params, parse_params
from ssfer.core.errors import SsferError
from ssfer.faces.detectors.registry import DETECTORS
from ssfer.methods.registry import METHODS
from tests.support.factory import shipped_params

NEVER = (math.nan, math.inf, -math.inf, "a\0b", "x\x1b[2J", {"a": [1]}, [[1]])  # wrong for every key
WRONG = (None, "", "16", "yes", "no-such-name", "../..", "x" * 5000, True, -1, -0.5, [], {}, ["a", 1])
BEYOND = (1e308, 2**63, 10**30)  # no machine counts so far
EXTREME = (0, 1, 1.5, 1e-308, 10**6, 2**31 - 1, 2**31, *BEYOND)
Place = tuple[str | int, ...]


@cache
def whole() -> Any:
    """Return the shipped settings with every key of every component."""
    full = parse_params(shipped_params()).model_dump(mode="json")
    for kind, registry in (("methods", METHODS), ("detectors", DETECTORS)):
        sections = {name: registry[name].Settings().model_dump(mode="json") for name in registry}
        full[kind] = {name: section for name, section in sections.items() if section}
    return full


def leaves(value: Any, place: Place = ()) -> Iterator[Place]:
    """Yield the places of all keys, sections too: a section that is no mapping is one of the mistakes."""
    if place:
        yield place
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*place, key))


def put(raw: Any, place: Place, value: Any) -> Any:
    """Return settings with one value changed."""
    changed = dict(raw) if isinstance(raw, dict) else list(raw)
    key, *rest = place
    changed[key] = put(changed[key], tuple(rest), value) if rest else value
    return changed


def places() -> list[Place]:
    """Return the places of every key of the settings, and of the first source; keys that methods share once."""
    found = [*leaves(whole()), *leaves(whole()["data"]["sources"][0], ("data", "sources", 0))]
    return list({place if place[0] != "methods" else ("methods", *place[2:]): place for place in found}.values())


@cache
def checked() -> dict[str, Any]:
    """Return the sections of `whole` after the check, which is not made again: it is most of the time."""
    params = parse_params(whole())
    return {name: getattr(params, name) for name in type(params).model_fields}


def values(place: Place) -> list[Any]:
    """Return what to try at a place: all of the kind that belongs there, and some of each other kind."""
    right = reduce(lambda node, key: node[key], place, whole())
    kind: type | tuple[type, ...] = str if isinstance(right, str) else (int, float)
    alike = isinstance(right, kind)
    other = (math.nan, 1, "16", "a\0b")
    return [
        v
        for v in (*NEVER, *WRONG, *EXTREME)
        if not isinstance(v, (str, int, float)) or v in other or (alike and isinstance(v, kind))
    ]


def outcome(place: Place, value: Any) -> Params | str:
    """Return settings with one value changed, or the sentence that refuses them; other exceptions are defects."""
    raw = checked() | {name: whole()[name] for name in ("semisup", "align", place[0])}
    if place[0] not in ("methods", "semisup"):
        raw["methods"] = {}
    elif len(place) > 1 and place[0] == "methods":
        raw["methods"] = {place[1]: raw["methods"][place[1]]}
    try:
        return parse_params(put(raw, place, value))
    except SsferError as error:
        return str(error)


def test_every_key_refuses_what_it_cannot_mean_in_one_sentence() -> None:
    tried = 0
    for place in places():
        for value in values(place):
            found = outcome(place, value)
            tried += 1
            if isinstance(found, str):
                assert "\n" not in found and len(found) < 700, (place, found)
                assert found.isprintable(), (place, found)
            else:
                assert not any(value is wrong for wrong in (*NEVER, *BEYOND)), (place, value)
    assert tried > 200


def test_what_is_accepted_passes_the_preflight_or_is_refused_by_it(project: Path) -> None:
    """The extremes of the keys in sections that the preflight reads."""
    refused = passed = 0
    for place in places():
        if place[0] not in ("generate", "split", "model", "pretrain", "data", "machine", "robustness"):
            continue
        accepted = (p for v in reversed(EXTREME + WRONG) if isinstance(p := outcome(place, v), Params))
        for params in islice(accepted, 1):
            try:
                preflight(params)
                passed += 1
            except SsferError as error:
                assert len(str(error)) < 2000, place
                refused += 1
    assert refused > 5 and passed > 30
