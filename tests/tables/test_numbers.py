"""Figures over seeds beside the paper's: by hand, refused where runs do not compare, and in three forms."""

from __future__ import annotations

import json
import shlex
import statistics
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ssfer.cli.main import app
from ssfer.core.errors import SsferError
from ssfer.core.files import write_json
from ssfer.tables.catalogue import catalogue
from ssfer.tables.numbers import Line, TableNumbers, chosen, table_numbers
from ssfer.tables.plan import Study
from ssfer.tables.records import Record, path_of, pretrained_apart, read_records, splits_apart
from ssfer.tables.run import plan
from ssfer.tables.settings import parse_settings
from ssfer.tables.show import remarks
from tests.support.experiment_fakes import TEST, accuracies, cell_of, record_of, save

KNOWN = catalogue()
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def ferplus(project: Path) -> Study:
    """Table 10 on FERPlus: three seeds with FaceMix at 10 %, one without at 5 %."""
    study = Study(KNOWN, "ferplus")
    mixed = cell_of(study, "table10", "+ FaceMix", labels="10%")
    values = {2024: (0.80, 0.83), 2025: (0.81, 0.84), 2026: (0.84, 0.88)}
    save(*(record_of(study, mixed, seed, accuracies(facemix=f, teacher=t)) for seed, (f, t) in values.items()))
    plain = cell_of(study, "table10", "Baseline", labels="5%")
    save(record_of(study, plain, 2024, accuracies(plain=0.7, teacher=0.75)))
    return study


def line(found: TableNumbers, row: str, labels: str, point: str = "") -> Line:
    (one,) = (x for x in found.lines if (x.row, x.labels, x.point) == (row, labels, point) and not x.published)
    return one


def test_student_and_average_stand_in_columns_of_their_own(project: Path) -> None:
    """A method's own teacher is its average; a record without an average has the student, and still lacks a run."""
    study = Study(KNOWN, "demo")
    for row, models in (
        ("labels only (the start)", {"facemix": 0.7, "facemix_ema": 0.72}),
        ("EMA teacher (SSFER)", {"facemix": 0.7, "student": 0.75, "teacher": 0.8}),
        ("UDA", {"student": 0.76, "average": 0.78}),
        ("LEAF", {"student": 0.6, "teacher": 0.65}),
    ):
        save(record_of(study, cell_of(study, "methods", row, "student"), 2024, accuracies(**models)))
    cell = cell_of(study, "methods", "SIT-FER", "student")
    bare = replace(cell, row=cell.row.model_copy(update={"set": {"semisup.method": "sitfer"}}))
    save(record_of(study, bare, 2024, accuracies(student=0.74)))
    found = table_numbers("methods", study)
    for row, student, average in (
        ("labels only (the start)", 70, 72),
        ("EMA teacher (SSFER)", 75, 80),
        ("UDA", 76, 78),
        ("LEAF", 60, 65),
        ("SIT-FER", 74, None),
    ):
        assert line(found, row, "10%", "student").mean == pytest.approx(student), row
        assert line(found, row, "10%", "average").mean == (average and pytest.approx(average)), row
    jobs, _ = plan(study, ["methods"], [2024], rows=["SIT-FER", "UDA"])
    assert [job.done for job in jobs] == [True, False]
    assert line(found, "UDA", "10%", "average").gain is None, "one seed"
    (one,) = chosen(found.lines, ["UDA"], "average")
    assert one.mean == pytest.approx(78) and len(chosen(found.lines, ["UDA"])) == 2
    assert chosen(found.lines) == list(found.lines)
    assert {line.row for line in table_numbers("methods", study, only=["UDA"]).lines} == {"UDA"}
    with pytest.raises(SsferError, match="unknown row 'uda'; did you mean 'UDA'"):
        chosen(found.lines, ["uda"])
    with pytest.raises(SsferError, match="unknown column 'averages'; did you mean 'average'"):
        chosen(found.lines, column="averages")
    with pytest.raises(SsferError, match="unknown column 'average' .none is known"):
        chosen(table_numbers("table12", study).lines, column="average")


def test_the_fine_tuned_network_is_also_read_from_runs_that_go_on(project: Path) -> None:
    """Its average is only there where it was kept."""
    study = Study(KNOWN, "demo")
    kept = cell_of(study, "methods", "labels only (the start)", "student")
    save(record_of(study, kept, 2024, accuracies(facemix=0.7, facemix_ema=0.72)))
    ours = cell_of(study, "methods", "EMA teacher (SSFER)", "student")
    save(record_of(study, ours, 2025, accuracies(facemix=0.68, student=0.7, teacher=0.8)))
    found = table_numbers("methods", study)
    start = [line(found, "labels only (the start)", "10%", point).values for point in ("student", "average")]
    assert start == [{2024: pytest.approx(70), 2025: pytest.approx(68)}, {2024: pytest.approx(72)}]


def test_mean_spread_and_difference_by_hand(ferplus: Study) -> None:
    found = table_numbers("table10", ferplus)
    full = line(found, "+ FaceMix + EMA-Teacher", "10%")
    assert full.values == pytest.approx({2024: 83, 2025: 84, 2026: 88})
    assert full.mean == pytest.approx(85)
    assert full.spread == pytest.approx(7**0.5), "sample: (4 + 1 + 9) / 2"
    assert (full.paper, full.difference) == (83.95, pytest.approx(1.05))
    assert line(found, "+ FaceMix", "10%").mean == pytest.approx((80 + 81 + 84) / 3)
    one = line(found, "Baseline", "5%")
    assert (one.mean, one.spread, one.difference) == (pytest.approx(70), None, pytest.approx(70 - 80.5))
    assert line(found, "+ EMA-Teacher", "5%").mean == pytest.approx(75)
    none = line(found, "Baseline", "25%")
    assert (none.values, none.mean, none.spread, none.paper, none.difference) == ({}, None, None, 84.77, None)
    assert (len(found.lines), len(found.empty)) == (12, 8)


def test_a_record_serves_every_table_of_its_settings(ferplus: Study) -> None:
    for table, row in (("table2", "SSFER"), ("table12", "EMA-Teacher"), ("table13", "FaceMix"), ("table14", "IOU")):
        assert line(table_numbers(table, ferplus), row, "10%").mean == pytest.approx(85)
    assert line(table_numbers("table13", ferplus), "Mixup", "10%").mean is None


def test_other_settings_are_not_mixed_in(ferplus: Study) -> None:
    other = Study(KNOWN, "ferplus", extra={"finetune.epochs": 6})
    cell = cell_of(other, "table2", "SSFER", labels="10%")
    assert table_numbers("table2", other).records == []
    save(record_of(other, cell, 2024, accuracies(teacher=0.2)))
    assert line(table_numbers("table2", other), "SSFER", "10%").values == pytest.approx({2024: 20})
    assert line(table_numbers("table2", ferplus), "SSFER", "10%").mean == pytest.approx(85)


def test_pretraining_seeds_are_a_study_of_their_own(ferplus: Study) -> None:
    every = Study(KNOWN, "ferplus", pretrain_seeds=True)
    assert list(line(table_numbers("table2", every), "SSFER", "10%").values) == [2024]
    save(record_of(every, cell_of(every, "table2", "SSFER", labels="10%"), 2025, accuracies(teacher=0.5)))
    assert line(table_numbers("table2", every), "SSFER", "10%").values == pytest.approx({2024: 83, 2025: 50})
    assert line(table_numbers("table2", ferplus), "SSFER", "10%").mean == pytest.approx(85)


def test_folds_are_averaged_seed_by_seed(project: Path) -> None:
    study = Study(KNOWN, "rafdb")
    values = {2024: (0.1, 0.2, 0.3, 0.4, 0.5), 2025: (0.2, 0.2, 0.2, 0.2, 0.7), 2026: (0.9, 0.9)}
    for seed, folds in values.items():
        for fold, value in enumerate(folds):
            cell = cell_of(study, "table5", "SSFER", str(fold + 1), "10%")
            test = {"images": 2450 + fold, "sha256": str(fold) * 64}
            save(record_of(study, cell, seed, accuracies(teacher=value), test=test))
    found = table_numbers("table5", study)
    average = line(found, "SSFER", "10%", "average")
    assert average.values == pytest.approx({2024: 30, 2025: 30}), "a seed without all folds has no average"
    assert (average.mean, average.spread, average.paper) == (pytest.approx(30), pytest.approx(0), 84.2)
    assert line(found, "SSFER", "10%", "1").values == pytest.approx({2024: 10, 2025: 20, 2026: 90})


def test_decline_under_label_noise_is_paired_by_seed(project: Path) -> None:
    study = Study(KNOWN, "rafdb")
    for point, values in (("0%", {2024: 0.80, 2025: 0.90}), ("30%", {2024: 0.75, 2025: 0.80, 2026: 0.1})):
        cell = cell_of(study, "table8", "SSFER", point, "5%")
        save(*(record_of(study, cell, seed, accuracies(teacher=value)) for seed, value in values.items()))
    decline = line(table_numbers("table8", study), "SSFER", "5%", "decline 0% to 30%")
    assert decline.values == pytest.approx({2024: 5, 2025: 10})
    assert decline.spread == pytest.approx(statistics.stdev([5, 10]))


def test_parameters_and_operations_are_counted_without_any_run_or_file(project: Path, capsys: Capture) -> None:
    """The closed forms of ViT-B are compared in tests/evaluation/test_complexity.py."""
    found = table_numbers("table6", Study(KNOWN, "rafdb"))
    for row, labels in (("ViT-Base", "100%"), ("SSFER", "5%")):
        params, macs = (line(found, row, labels, point) for point in ("parameters, M", "GMACs"))
        assert (round(params.mean or 0, 2), round(macs.mean or 0, 2)) == (85.65, 16.85)
        assert (params.paper, macs.paper, params.spread, params.values) == (85.7, 16.9, None, {})
    small = line(found, "MobileNetV2", "100%", "parameters, M")
    assert (small.mean, small.difference) == (pytest.approx(2.2, abs=0.01), pytest.approx(0, abs=0.01))
    assert {(x.row, x.point) for x in found.empty} == {("SSFER", "accuracy")}, "a count is never missing"
    assert "ssfer fetch vgg13" in found.lacking["VGG13"]
    with pytest.raises(SystemExit):
        app(["experiments", "table", "table6", "--dataset", "rafdb", "--markdown"], prog_name="ssfer")
    text = capsys.readouterr().out
    assert "| row | labels |  | ours | ± seeds | seeds | paper | difference |" in text
    assert "| SSFER | 5% | GMACs | 16.85 | – | – | 16.90 | −0.05 |" in text
    assert "| POSTER | labels=12271 | parameters, M | – | – | – | 71.80 | – |" in text


def test_robustness_is_read_where_it_was_measured(project: Path) -> None:
    study = Study(KNOWN, "demo")
    cell = cell_of(study, "table7", "focused", "0.02")
    epsilons = {e: {"accuracy": a} for e, a in (("0", 0.8), ("0.02", 0.5), ("0.04", 0.3))}
    attacked = {"robustness": {"models": {"teacher": {"focused": epsilons, "unfocused": {}}}}}
    save(record_of(study, cell, 2024, accuracies(teacher=0.8)))
    assert line(table_numbers("table7", study), "focused", "10%", "0.02").mean is None
    save(record_of(study, cell, 2024, {**accuracies(teacher=0.8), **attacked}))
    found = table_numbers("table7", study)
    assert [line(found, "focused", "10%", e).mean for e in ("0", "0.02", "0.06")] == [80, 50, None]
    other = Study(KNOWN, "demo", extra={"robustness.cam_threshold": 0.5})
    assert line(table_numbers("table7", other), "focused", "10%", "0").mean is None, "measured with another threshold"
    assert line(table_numbers("table2", other), "SSFER", "10%").mean == 80


def change(record: Record, **changes: object) -> None:
    save(Record(**{**record.__dict__, **changes}))


def test_runs_with_other_test_images_are_refused(ferplus: Study) -> None:
    last = read_records("ferplus")[-1]
    change(last, test={"images": 71, "sha256": "b" * 64})
    with pytest.raises(SsferError, match=r"have different test images \(71 and 70\) and cannot be compared") as refusal:
        table_numbers("table10", ferplus)
    assert last.name in str(refusal.value) and "\n" not in str(refusal.value)
    change(last, test={"images": 70, "sha256": "b" * 64})
    with pytest.raises(SsferError, match="different test images"):
        table_numbers("table10", ferplus)
    change(last)
    assert table_numbers("table10", ferplus).records


def test_runs_with_another_label_rule_are_refused(ferplus: Study) -> None:
    last = read_records("ferplus")[-1]
    change(last, label_rule={**last.label_rule, "ferplus.rule": "majority"})
    with pytest.raises(SsferError, match=r"different label rules \(ferplus.rule: majority and plurality\) and cannot"):
        table_numbers("table10", ferplus)
    change(last, label_rule={**last.label_rule, "class_set": "affectnet8"})
    with pytest.raises(SsferError, match="different label rules"):
        table_numbers("table10", ferplus)


def test_records_outside_the_table_do_not_matter(ferplus: Study) -> None:
    change(read_records("ferplus")[-1], test={"images": 71, "sha256": "b" * 64})
    records = {r.test["images"] for r in table_numbers("table2", ferplus).records}
    assert len(records) == 1


def test_two_records_of_one_run_are_refused(ferplus: Study) -> None:
    record = read_records("ferplus")[0]
    other = replace(record, name="copy", metrics=accuracies(facemix=0.1, plain=0.1, teacher=0.1))
    write_json(path_of("ferplus", "copy"), asdict(other))
    with pytest.raises(SsferError, match=r"are records of the same settings and seed with different results; move one"):
        table_numbers("table10", ferplus)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not valid JSON"), ('{"name": "x"}', "is no record of an experiment"), (None, "has version 0")],
)
def test_damaged_records_are_refused(ferplus: Study, content: str | None, message: str) -> None:
    path = next(Path("metrics/experiments/ferplus").glob("*.json"))
    path.write_text(path.read_text().replace('"version": 1', '"version": 0') if content is None else content)
    with pytest.raises(SsferError, match=message):
        table_numbers("table10", ferplus)


def test_records_are_read_as_written(ferplus: Study) -> None:
    """They are committed: writing one again must not change a byte."""
    before = {path: path.read_bytes() for path in Path("metrics/experiments/ferplus").iterdir()}
    assert len(before) == 4
    save(*read_records("ferplus"))
    assert {path: path.read_bytes() for path in Path("metrics/experiments/ferplus").iterdir()} == before


def table(capsys: Capture, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        app(["experiments", "table", *words], prog_name="ssfer")
    return int(end.value.code or 0), *capsys.readouterr()


def test_markdown(ferplus: Study, capsys: Capture) -> None:
    status, out, _ = table(capsys, "table10", "--dataset", "ferplus", "--markdown", "--labels", "10%")
    assert status == 0
    assert out.splitlines()[:8] == [
        "**table10: What FaceMix and the EMA teacher add (FERPlus)**",
        "",
        "| row | labels | ours % | ± seeds | seeds | paper % | difference |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        "| Baseline | 10% | – | – | 0 | 82.60 | – |",
        "| + FaceMix | 10% | 81.67 | 2.08 | 3 | 83.27 | −1.60 |",
        "| + EMA-Teacher | 10% | – | – | 0 | 83.03 | – |",
        "| + FaceMix + EMA-Teacher | 10% | 85.00 | 2.65 | 3 | 83.95 | +1.05 |",
    ]
    assert "Tested on 70 images; ± is the sample standard deviation over seeds." in out
    command = "ssfer experiments run table10 --dataset ferplus --labels 10%"
    assert out.endswith(f"Missing results: 2; to run them: {command}\n")


def test_the_command_for_missing_figures_has_the_options_the_table_was_asked_with(
    ferplus: Study, capsys: Capture
) -> None:
    def command(*options: str) -> list[str]:
        status, out, _ = table(capsys, "table12", "--dataset", "ferplus", *options)
        assert status == 0
        return shlex.split(out.splitlines()[-1].partition("; to run them: ")[2])

    start = ["ssfer", "experiments", "run", "table12", "--dataset", "ferplus"]
    assert command() == start, "every budget lacks something"
    assert command("--labels", "5%", "--labels", "10%") == [*start, "--labels", "5%", "--labels", "10%"]
    options = ("--preset", "vit_tiny", "--set", "semisup.epochs=2", "--set", "semisup.method=leaf", "--pretrain-seeds")
    found = command(*options)[len(start) :]
    assert [text for text in found if "=" not in text] == [text for text in options if "=" not in text]
    assert parse_settings([text for text in found if "=" in text]) == {"semisup.epochs": 2, "semisup.method": "leaf"}


def test_json(ferplus: Study, capsys: Capture) -> None:
    status, out, _ = table(capsys, "table10", "--dataset", "ferplus", "--json")
    found = json.loads(out)
    assert (status, found["table"], found["dataset"], len(found["lines"])) == (0, "table10", "ferplus", 12)
    assert found["test"] == [TEST]
    (full,) = (x for x in found["lines"] if (x["row"], x["labels"]) == ("+ FaceMix + EMA-Teacher", "10%"))
    assert full == {
        "row": "+ FaceMix + EMA-Teacher",
        "labels": "10%",
        "point": "",
        "values": {"2024": 83.0, "2025": 84.0, "2026": 88.0},
        "mean": 85.0,
        "spread": 2.6458,
        "paper": 83.95,
        "difference": 1.05,
        "published": False,
    }


def test_terminal_shows_all_columns_without_cutting(ferplus: Study, capsys: Capture) -> None:
    status, out, _ = table(capsys, "table10", "--dataset", "ferplus")
    assert status == 0
    (full,) = (row for row in out.splitlines() if "+ FaceMix + EMA-Teacher" in row and "10%" in row)
    assert full.split()[-5:] == ["85.00", "2.65", "3", "83.95", "+1.05"]


def test_rows_are_compared_with_the_tables_reference_over_shared_seeds(ferplus: Study, capsys: Capture) -> None:
    plain = cell_of(ferplus, "table10", "Baseline", labels="10%")
    values = {2024: 0.78, 2025: 0.80, 2027: 0.10}
    save(*(record_of(ferplus, plain, seed, accuracies(plain=value)) for seed, value in values.items()))
    found = table_numbers("table10", ferplus)
    gain = line(found, "+ FaceMix", "10%").gain
    assert gain is not None and gain.differences == pytest.approx((2, 1))
    assert line(found, "Baseline", "10%").gain is None and line(found, "+ FaceMix", "5%").gain is None
    status, out, _ = table(capsys, "table10", "--dataset", "ferplus", "--labels", "10%", "--markdown")
    assert status == 0
    assert "| row | labels | ours % | ± seeds | seeds | gain | p | paper % | difference |" in out
    # mean 1.5, standard error 0.5; one degree of freedom: p = 1 - 2 atan(3) / pi
    assert "| + FaceMix | 10% | 81.67 | 2.08 | 3 | +1.50 | 0.205 | 83.27 | −1.60 |" in out
    assert "Gain: mean difference to row 'Baseline', in points; p: two-sided paired t-test" in out
    *_, out, _ = table(capsys, "table10", "--dataset", "ferplus", "--labels", "10%", "--json")
    (mixed,) = (x for x in json.loads(out)["lines"] if x["row"] == "+ FaceMix")
    assert (mixed["gain"], mixed["gain_seeds"], mixed["gain_p"]) == (1.5, 2, 0.2048)


def test_published_rows_are_shown_but_not_ours_twice(project: Path, capsys: Capture) -> None:
    found = table_numbers("table2", Study(KNOWN, "rafdb"))
    others = [x for x in found.lines if x.published]
    assert {x.row for x in others} >= {"POSTER++", "DCJT"} and not [x for x in others if "SSFER" in x.row]
    assert next(x.paper for x in others if x.row == "DCJT") == 92.24
    assert not [x for x in table_numbers("table10", Study(KNOWN, "rafdb")).lines if x.published]
    assert not [x for x in table_numbers("table2", Study(KNOWN, "demo")).lines if x.published]


def test_other_pretrained_weights_behind_the_same_settings_are_told(ferplus: Study, capsys: Capture) -> None:
    first, second, *_ = read_records("ferplus")
    change(first, pretrained="a" * 32)
    assert "CAUTION" not in table(capsys, "table10", "--dataset", "ferplus", "--markdown")[1]  # others do not say
    change(second, pretrained="a" * 32)
    assert "CAUTION" not in table(capsys, "table10", "--dataset", "ferplus", "--markdown")[1]
    change(second, pretrained="b" * 32)
    assert "used 2 different pretrained weights" in table(capsys, "table10", "--dataset", "ferplus", "--markdown")[1]
    change(second, pretrained="b" * 32, settings={**second.settings, "pretrain.seed": 7})
    records = read_records("ferplus")
    assert pretrained_apart(records) == 1  # as they should be: another seed


def test_runs_of_different_precisions_are_told(ferplus: Study, capsys: Capture) -> None:
    first, second, *_ = read_records("ferplus")
    cpu = {"device": "cpu", "precision": "fp32", "threads": 2, "torch": "2.11.0"}

    def compute(record: Record, **computed: object) -> None:
        write_json(path_of("ferplus", record.name), asdict(replace(record, computed={**cpu, **computed})))

    compute(first)
    compute(second, threads=8)  # the others do not say it
    assert "CAUTION" not in table(capsys, "table10", "--dataset", "ferplus", "--markdown")[1]
    compute(second, device="cuda", precision="bf16")
    told = "CAUTION: the runs were computed in different precisions (bf16, fp32), which alone moves single results"
    assert told in table(capsys, "table10", "--dataset", "ferplus", "--markdown")[1]


def test_other_splits_behind_the_same_settings_are_told(ferplus: Study) -> None:
    found = table_numbers("table10", ferplus)
    first = found.records[0]
    assert not [remark for remark in remarks("table10", ferplus, found) if "splits" in remark]
    other = replace(first, split={**first.split, "hash": "6" * 64})
    told = remarks("table10", ferplus, replace(found, records=[*found.records, other]))
    assert "were trained on 2 different splits" in " ".join(told)
    noisy = replace(other, settings={**first.settings, "split.label_noise": 0.2})
    assert splits_apart([first, noisy]) == 1


def test_remarks_tell_what_limits_the_comparison(ferplus: Study, capsys: Capture) -> None:
    change(read_records("ferplus")[0], commit="d" * 40)
    _, out, _ = table(capsys, "table10", "--dataset", "ferplus", "--markdown")
    assert "The runs are of 2 states of the code" in out
    _, out, _ = table(capsys, "table16", "--dataset", "ferplus-vit", "--markdown")
    assert "Not the paper's network and recipe" in out
    assert "Left out: SSFER, found by `ssfer search lr`, because metrics/search/lr.json is missing" in out
