"""Entries of data.sources: the importer's own settings check them, and a user's own importer is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssfer.config.schema import load_params, parse_params
from ssfer.core.errors import SsferError
from ssfer.core.process_pool import map_in_processes
from ssfer.datasets.registry import SOURCES, open_source, recognition_order

OWN = """
from ssfer.datasets.base import RawRecord, Source, SourceSettings

class Mine(Source):
    title, terms, variant, dropped = "my photos", "my own", "one photo", {}

    class Settings(SourceSettings):
        names: tuple[str, ...] = ("a.jpg",)

    def __init__(self, path, settings):
        self.path, self.settings = path, settings

    def records(self):
        return [RawRecord(name, label="anger", usage="train") for name in self.settings.names]

    def read(self, record):
        return (self.path / record.path).read_bytes()

    def stamp(self, record):
        return record.path

class Half(Source):
    title = "no records"

class Other:
    pass
"""


def with_entry(**change: Any) -> dict[str, Any]:
    raw = load_params(Path("params.yaml")).model_dump(mode="json")
    raw["data"]["sources"][0] |= change
    return raw


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": 3}, r"'data.sources.0.kind': Input should be a valid string \(found 3\)"),
        ({"kind": "ferplus", "rul": 1}, "unknown key 'data.sources.0.rul'; did you mean 'rule'"),
        ({"kind": "ferplus", "rule": "plural"}, "'data.sources.0.rule': Input should be 'plurality', .*'plural'"),
        ({"kind": "ferplus", "test": ["FER2013Train"]}, "'data.sources.0.test.0': Input should be 'FER2013Valid'"),
        ({"kind": "affectnet", "classes": 6}, "'data.sources.0.classes': Input should be 7 or 8"),
        ({"kind": "adience", "fold": "1"}, "'data.sources.0.fold': Input should be a valid integer"),
        ({"labeled": "yes"}, "'data.sources.0.labeled': Input should be a valid boolean"),
        ({"kind": "./no.py:Mine"}, "'data.sources.0.kind': .*there is no file ./no.py"),
        ({"kind": "./mine.py:Nobody"}, "'data.sources.0.kind': .*mine.py has no class Nobody"),
        ({"kind": "./mine.py:Other"}, "is no kind of data set: expected a class derived from Source"),
        ({"kind": "./mine.py:Half"}, "must define __init__, read, records, stamp"),
        ({"kind": "./mine.py:Mine", "name_s": 1}, "unknown key 'data.sources.0.name_s'; did you mean 'names'"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_place(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = with_entry(**change)
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SsferError, match=message):
        parse_params(raw)


def test_an_importer_of_the_users_own_is_opened_and_reaches_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = with_entry(kind="./mine.py:Mine", path="photos", names=["b.jpg"], counts="any")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/b.jpg").write_bytes(b"x")
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    source = open_source(parse_params(raw).data.sources[0], tmp_path)
    assert [source.read(r) for r in source.records()] == [b"x"]
    assert list(map_in_processes(getattr, source, ["title", "variant"], 2, "")) == ["my photos", "one photo"]


def test_generic_kinds_are_tried_last() -> None:
    assert recognition_order()[-3:] == ("csv", "class_folders", "identities")
    assert set(recognition_order()) == set(SOURCES)
    assert all(SOURCES[kind].title and SOURCES[kind].terms for kind in SOURCES)
