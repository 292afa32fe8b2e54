"""Caps on what is imported: a sample that depends on names alone, and never on evaluation images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssfer.datasets.base import RawRecord, SourceSettings
from ssfer.datasets.shared.import_caps import capped
from ssfer.faces.build import build_faces
from ssfer.formats.manifest import read_manifest
from tests.support.align_runs import PARAMS, write_people
from tests.support.rendered_photos import BrightDetector

RECORDS = [RawRecord(f"p{i % 4}/{i:03d}.jpg", identity=f"p{i % 4}") for i in range(40)]
TESTED = [RawRecord(f"test/{i}.jpg", usage="test", label="anger") for i in range(5)]
NOBODY = [RawRecord(f"{i}.jpg") for i in range(6)]


def settings(**caps: Any) -> SourceSettings:
    return SourceSettings(name="a", kind="identities", path="a", align="similarity", **caps)


def test_per_person_and_in_all() -> None:
    records = [*RECORDS, *TESTED, *NOBODY]
    assert capped(records, settings()) is records
    kept = capped(records, settings(import_max_per_identity=3))
    assert [sum(r.identity == f"p{k}" for r in kept) for k in range(4)] == [3, 3, 3, 3]
    assert [r for r in kept if r.identity is None] == [*TESTED, *NOBODY]
    assert kept == [r for r in records if r in kept], "in the order they had"
    assert {r.path[-7:-4] for r in kept if r.identity == "p0"} != {"000", "004", "008"}, "not simply the first"
    kept = capped(records, settings(import_max=7, import_max_per_identity=3))
    assert len(kept) == 7 + len(TESTED)


def test_order_does_not_matter_and_a_smaller_sample_lies_in_a_larger_one() -> None:
    large, small = settings(import_max=20), settings(import_max=8)
    assert set(capped(RECORDS[::-1], large)) == set(capped(RECORDS, large))
    assert set(capped(RECORDS, small)) < set(capped(RECORDS, large))


def test_what_is_not_imported_is_counted_and_never_decoded(tmp_path: Path) -> None:
    source = write_people(tmp_path, 20).model_copy(update={"import_max": 6})
    counts, _ = build_faces(source, tmp_path, tmp_path / "out", PARAMS, detector=BrightDetector)
    assert (counts["images"], counts["left_out"]["over_import_max"]) == (6, 14)
    assert read_manifest(tmp_path / "out").num_rows == 6
