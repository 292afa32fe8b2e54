"""Records are never lost: other settings have other names, other results are kept beside."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.core.files import read_json, write_json
from ssfer.tables.budget import parse_budget
from ssfer.tables.catalogue import catalogue
from ssfer.tables.numbers import table_numbers
from ssfer.tables.plan import Study
from ssfer.tables.records import FOLDER, find_record, path_of, read_records, write_record
from ssfer.tables.run import plan
from tests.support.experiment_fakes import accuracies, cell_of, record_of, save

KNOWN = catalogue()
SUPERSEDED = FOLDER / "demo" / "superseded"


@pytest.fixture
def demo(project: Path) -> Study:
    """The demo with one record of table 2."""
    study = Study(KNOWN, "demo")
    save(record_of(study, cell_of(study, "table2", "SSFER"), 2024, accuracies(teacher=0.8)))
    return study


def test_an_edit_of_params_yaml_cannot_reach_a_committed_record(root: Path, project: Path) -> None:
    """Once 0.8495 of three seeds became 0.1429 after `epochs` was edited: both runs had one name."""
    shutil.copytree(root / FOLDER / "demo", project / FOLDER / "demo")
    before = {path: path.read_bytes() for path in (project / FOLDER / "demo").glob("*.json")}
    committed = Study(KNOWN, "demo")
    before_edit = table_numbers("table2", committed).lines
    (mean,) = (x.mean for x in before_edit if x.values)
    assert mean is not None and mean > 50
    text = (project / "params.yaml").read_text()
    for key, value in (("batch_size", "8"), ("uratio", "2"), ("strong_view", "eval")):  # the last is a new key
        line = next(x for x in text[text.index("semisup:") :].splitlines() if x.startswith(f"  {key}:"))
        (project / "params.yaml").write_text(text.replace(line, f"  {key}: {value}"))
        study = Study(KNOWN, "demo")
        assert not plan(study, ["table2"], [2024])[0][0].done
        cell = cell_of(study, "table2", "SSFER")
        write_record(record_of(study, cell, 2024, accuracies(teacher=0.1429)), study.defaults)
        assert [x.mean for x in table_numbers("table2", study).lines if x.values] == [pytest.approx(14.29)]
        assert table_numbers("table2", committed).lines == before_edit
    assert {path: path.read_bytes() for path in before} == before
    assert len(list((project / FOLDER / "demo").glob("*.json"))) == len(before) + 3


@pytest.mark.parametrize("dataset", ["demo", "ferplus-vit"])
def test_every_committed_record_is_found_by_a_row(root: Path, project: Path, dataset: str) -> None:
    shutil.copytree(root / FOLDER / dataset, project / FOLDER / dataset)
    study, records = Study(KNOWN, dataset), read_records(dataset)
    budgets = [parse_budget(text) for text in sorted({record.labels for record in records})]
    tables = ("table2", "table10", "table12", "table13", "methods", "leaf_parts", "beyond")
    found = [table_numbers(name, study, budgets).records for name in tables]
    assert {record.name for record in chain(*found)} == {record.name for record in records}


def test_other_figures_of_the_same_settings_are_kept_beside(demo: Study, capsys: pytest.CaptureFixture[str]) -> None:
    (old,) = read_records("demo")
    new = replace(old, metrics=accuracies(teacher=0.7), commit="d" * 40)
    path = write_record(new, demo.defaults)
    assert read_records("demo") == [new]
    (aside,) = SUPERSEDED.iterdir()
    assert read_json(aside) == asdict(old)
    assert capsys.readouterr().out == f"{path} has other results than this run; it was moved to {aside}\n"
    write_record(old, demo.defaults)
    assert read_records("demo") == [old]
    assert len(list(SUPERSEDED.iterdir())) == 2, "nor is the second one lost"


def test_other_test_images_are_other_figures(demo: Study) -> None:
    (old,) = read_records("demo")
    write_record(replace(old, test={"images": 71, "sha256": "b" * 64}), demo.defaults)
    assert read_json(next(SUPERSEDED.iterdir())) == asdict(old)


def test_a_run_that_confirms_a_record_takes_its_place(demo: Study) -> None:
    (old,) = read_records("demo")
    more = replace(old, metrics={**accuracies(teacher=0.8), "robustness": {"chance": 0.1}}, commit="d" * 40)
    write_record(more, demo.defaults)
    assert read_records("demo") == [more]
    assert not SUPERSEDED.exists()


CPU = {"device": "cpu", "precision": "fp32", "threads": 2, "torch": "2.11.0"}


def test_what_computed_a_record_is_no_part_of_what_it_is_of(demo: Study) -> None:
    """Records of an older ssfer do not say it, and a run that DVC restores from its cache cannot."""
    (old,) = read_records("demo")
    path = path_of("demo", old.name)
    write_json(path, {key: value for key, value in asdict(old).items() if key != "computed"})
    assert read_records("demo") == [old] and old.computed is None
    write_record(replace(old, computed=CPU), demo.defaults)
    assert read_records("demo") == [old], "unknown stays unknown"
    write_json(path, asdict(replace(old, computed=CPU)))
    write_record(replace(old, computed={**CPU, "precision": "bf16"}), demo.defaults)
    assert read_records("demo") == [replace(old, computed=CPU)]
    experiment = demo.experiment(cell_of(demo, "table2", "SSFER"), 2024)
    assert find_record(read_records("demo"), experiment, demo.defaults, ["evaluate"]) is not None
    assert not SUPERSEDED.exists()
    other = replace(old, metrics=accuracies(teacher=0.7), computed={**CPU, "precision": "bf16"})
    write_record(other, demo.defaults)
    assert read_records("demo") == [other], "other results were computed anew"


def test_a_record_under_the_name_of_an_earlier_ssfer_is_followed(demo: Study) -> None:
    """Its name lacks settings that came later; the new run replaces it or keeps it, under the new name."""
    (old,) = read_records("demo")
    earlier = replace(
        old, name="demo-old", settings={k: v for k, v in old.settings.items() if k != "semisup.strong_view"}
    )
    path_of("demo", old.name).rename(path_of("demo", "demo-old"))
    write_json(path_of("demo", "demo-old"), asdict(earlier))
    write_record(old, demo.defaults)
    assert read_records("demo") == [old]
    write_json(path_of("demo", "demo-old"), asdict(earlier))
    other = replace(old, metrics=accuracies(teacher=0.7))
    write_record(other, demo.defaults)
    assert read_records("demo") == [other]
    assert {read_json(path)["name"] for path in SUPERSEDED.iterdir()} == {"demo-old", old.name}


def test_another_result_under_the_same_name_is_kept_beside(demo: Study) -> None:
    (old,) = read_records("demo")
    other = replace(old, settings={**old.settings, "semisup.epochs": 1})
    write_record(other, demo.defaults)
    assert read_records("demo") == [other]
    assert read_json(next(SUPERSEDED.iterdir())) == asdict(old)


def test_a_record_with_the_right_labels_goes_first(demo: Study) -> None:
    (old,) = read_records("demo")
    relabeled = replace(
        old, name="a", label_rule={**old.label_rule, "class_set": "ferplus"}, metrics=accuracies(teacher=0.1)
    )
    write_record(relabeled, demo.defaults)
    records = read_records("demo")
    assert len(records) == 2
    experiment = demo.experiment(cell_of(demo, "table2", "SSFER"), 2024)
    assert find_record(records, experiment, demo.defaults, ["evaluate"]) == old


def test_a_copied_record_is_refused(demo: Study) -> None:
    (old,) = read_records("demo")
    shutil.copy(path_of("demo", old.name), path_of("demo", "copy"))
    with pytest.raises(SsferError, match=rf"copy\.json holds the record of .*{old.name}\.json; move it there"):
        read_records("demo")
