"""ssfer.testing.importers: every broken rule is named; the importers of ssfer are checked in tests/datasets."""

from __future__ import annotations

from typing import Any

import pytest

from ssfer.datasets.base import RawRecord, Source
from ssfer.testing.importers import check_importer


class Mine(Source):
    """Keeps the contract, unless told otherwise."""

    title, terms, variant, dropped = "mine", "none", "two photos", {}

    def __init__(self, **record: Any) -> None:
        self.record, self.calls = record, 0

    def records(self) -> list[RawRecord]:
        return [RawRecord("a.png"), RawRecord(**{"path": "b.png", **self.record})]

    def read(self, record: RawRecord) -> bytes:
        return b"x"

    def stamp(self, record: RawRecord) -> str:
        return "1"


class Shuffled(Mine):
    def records(self) -> list[RawRecord]:
        self.calls += 1
        return super().records()[:: 1 if self.calls % 2 else -1]


class Forgetful(Mine):
    def __getstate__(self) -> dict[str, Any]:
        return {"record": {"path": "c.png"}, "calls": 0}


class Timed(Mine):
    def stamp(self, record: RawRecord) -> str:
        self.calls += 1
        return str(self.calls)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "calls": 5}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Mine(path="a.png"), "lists a path twice"),
        (Mine(path="/b.png"), "paths are relative"),
        (Mine(path="x/../../b.png"), "paths stay inside"),
        (Mine(label="Happy"), "the label 'Happy' must be as"),
        (Mine(usage="dev"), "usage 'dev' is none of"),
        (Mine(face=(5, 5, 1, 9)), r"face is \(5, 5, 1, 9\), expected x1, y1, x2, y2"),
        (Mine(label=3), "label is 3, expected a text or None"),
        (Mine(identity=7), "identity is 7, expected a text or None"),
        (Mine(truth="{"), "truth is not JSON"),
        (Shuffled(), "the second time"),
        (Forgetful(), "other records in a worker process"),
        (Timed(), "the stamp differs"),
    ],
)
def test_a_broken_rule_is_named(source: Source, message: str) -> None:
    check_importer(Mine(label="anger", usage="train", face=(1, 1, 2, 2)))
    with pytest.raises(AssertionError, match=message):
        check_importer(source)
