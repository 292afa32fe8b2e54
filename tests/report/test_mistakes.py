"""Pictures of wrongly classified test faces: which ones and how many; and when the report may show no faces at all."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from ssfer.config.schema import Params, parse_params
from ssfer.core.errors import SsferError
from ssfer.core.files import read_json, sha256_json
from ssfer.datasets.registry import SOURCES
from ssfer.formats.manifest import read_manifest, write_manifest
from ssfer.report.gallery import sample_faces
from ssfer.report.licensed import SHOWABLE, licensed
from ssfer.report.mistakes import in_turn, mistakes
from ssfer.report.page import build_report
from ssfer.report.results import Results, load_results
from tests.support.report_runs import CLASSES, Page, edit, fake_faces, fake_metrics, make_params

ANGER, FEAR, JOY = CLASSES[0], CLASSES[2], CLASSES[3]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose first test faces, in the order of the split, are right, wrong, wrong, right and wrong."""
    fake_metrics(tmp_path / "metrics")
    fake_faces(tmp_path / "data", make_params())
    with open(tmp_path / "metrics/confusion.csv", newline="") as file:
        rows = [(row["actual"], row["actual"]) for row in csv.DictReader(file)]
    rows[:5] = [(ANGER, ANGER), (ANGER, FEAR), (ANGER, FEAR), (ANGER, ANGER), (ANGER, JOY)]
    sure = [0.9, 0.4, 0.7, 0.5, 0.6, *[0.5] * (len(rows) - 5)]
    with open(tmp_path / "metrics/confusion.csv", "w", newline="") as file:
        told = [(*row, c) for row, c in zip(rows, sure, strict=True)]
        csv.writer(file).writerows([("actual", "predicted", "confidence"), *told])
    return tmp_path


def found(run: Path, **changes: Any) -> list[tuple[str, str, str]]:
    results = load(run, **changes)
    return [(m.true, m.predicted, m.picture) for m in mistakes(results, run / "metrics", run / "data")]


def load(run: Path, **changes: Any) -> Results:
    return load_results(make_params(report__gallery=True, **changes), run / "metrics")


def test_wrong_faces_come_in_turn_by_pair_with_both_classes(run: Path) -> None:
    three = found(run)
    assert [(true, told) for true, told, _ in three] == [(ANGER, FEAR), (ANGER, JOY), (ANGER, FEAR)]
    assert [m.confidence for m in mistakes(load(run), run / "metrics", run / "data")] == [0.7, 0.6, 0.4]
    assert len({picture for *_, picture in three}) == 3 and all(p.startswith("data:image/jpeg") for *_, p in three)
    text = build_report(make_params(report__gallery=True), run / "metrics", run / "data")
    assert f'alt="{ANGER}, taken for {FEAR}"' in text and "3 of 3: in turn" in Page(text).text
    assert f"{ANGER} → {FEAR}, 70%" in Page(text).text


@pytest.mark.parametrize("most", [0, 1, 2])
def test_the_setting_is_the_most_that_is_shown(run: Path, most: int) -> None:
    assert found(run, report__mistakes=most) == found(run)[:most]


def test_pairs_take_turns_the_most_frequent_and_the_surest_first() -> None:
    rare, often = ("x", "y"), ("x", "z")
    faces = [("a", rare, 0.5), ("b", often, 0.8), ("c", often, 0.3), ("d", rare, 0.5), ("e", often, 0.9)]
    assert [name for name, *_ in in_turn(faces)] == ["e", "a", "b", "d", "c"]


def test_figures_of_an_older_version_are_refused(run: Path) -> None:
    file = run / "metrics/confusion.csv"
    file.write_text("\n".join(line.rpartition(",")[0] for line in file.read_text().splitlines()))
    with pytest.raises(SsferError, match="older version without confidences; run dvc repro evaluate"):
        found(run)


def test_none_are_shown_without_the_gallery_or_without_data(run: Path) -> None:
    text = build_report(make_params(report__gallery=False), run / "metrics", run / "data")
    assert "taken for" in text and "Wrongly classified test faces" not in text and "image/jpeg" not in text
    assert mistakes(load(run), run / "metrics", run / "nowhere") == []


def test_a_damaged_face_is_not_shown_as_if_it_were_right(run: Path) -> None:
    manifest = next(run.glob("data/faces/*/manifest.parquet"))
    rows = read_manifest(manifest.parent).to_pylist()
    write_manifest([row | {"crc32": 5} for row in rows], manifest)
    assert found(run) == []
    assert sample_faces(make_params(report__gallery=True), run / "data") == {}


def of_kinds(labeled: str, unlabeled: str, classes: str = "synthetic") -> Params:
    """Return settings with the gallery on, whose sources "expressions" (labeled) and "people" are of these kinds."""
    raw = make_params(report__gallery=True, data__classes=classes).model_dump(mode="json")
    sources = {source["name"]: source for source in raw["data"]["sources"]}
    sources["expressions"]["kind"], sources["people"]["kind"] = labeled, unlabeled
    return parse_params(raw)


@pytest.mark.parametrize(
    ("kind", "classes"),
    [("ferplus", "synthetic"), *(("class_folders", c) for c in ("rafdb", "affectnet7", "ferplus7", "adience_gender"))],
)
def test_licensed_test_faces_are_in_no_section(run: Path, kind: str, classes: str) -> None:
    params = of_kinds(kind, "rendered", classes)
    assert licensed(params) == licensed(params, unlabeled=True) == ["expressions"]
    text = build_report(params, run / "metrics", run / "data")
    assert "image/jpeg" not in text  # reconstructions, sample faces and mistakes are JPEGs, plots PNGs
    assert "No faces are shown, although report.gallery is true: the terms of expressions forbid it" in Page(text).text


def test_licensed_faces_of_the_corpus_keep_reconstructions_out(run: Path) -> None:
    """Unlabeled photos are in the corpus, whose faces the reconstructions show; test faces may be shown."""
    params = of_kinds("rendered", "celeba")
    assert (licensed(params), licensed(params, unlabeled=True)) == ([], ["people"])
    text = build_report(params, run / "metrics", run / "data")
    assert 'id="reconstruction"' not in text and "ssfer figure reconstructions" in text
    assert "Sample faces of class" in text and ", taken for " in text
    assert "they show faces of the corpus, and the terms of people forbid it" in Page(text).text


def test_sources_whose_faces_may_be_shown_are_rendered_or_the_users_own() -> None:
    assert {*SHOWABLE} < {*SOURCES}
    assert all("user's own copy" in SOURCES[kind].terms or "No real person" in SOURCES[kind].terms for kind in SHOWABLE)


def test_a_split_of_another_run_is_refused(run: Path) -> None:
    ids = read_json(run / "data/splits/split.json")["test"]
    edit(run / "metrics/evaluate.json", lambda content: content.update(test_sha256=sha256_json(ids)))
    assert len(found(run)) == 3
    edit(run / "metrics/evaluate.json", lambda content: content.update(test_sha256=sha256_json(ids[::-1])))
    with pytest.raises(SsferError, match="another test part than metrics/evaluate.json; .*run dvc repro evaluate"):
        found(run)
