"""The tables of docs/results/results.md: rows, networks side by side, gains, times."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ssfer.config.identity import label_rule
from ssfer.evaluation.paired import PairedSeeds
from ssfer.methods.registry import METHODS
from ssfer.tables.catalogue import catalogue
from ssfer.tables.numbers import Line
from ssfer.tables.plan import Study, cells
from ssfer.tables.records import Record
from tools.tables import experiments, networks, one_column, step_times


def test_networks_of_a_row_stand_side_by_side() -> None:
    lines = [
        Line("start", "10%", "student", {1: 80.0, 2: 82.0}, None),
        Line("start", "10%", "average", {1: 80.0, 2: 82.0}, None),
        Line("UDA", "10%", "student", {1: 81.0, 2: 83.5}, None, gain=PairedSeeds((1.0, 1.5))),
        Line("UDA", "10%", "average", {1: 84.0}, None),
        Line("VAT", "10%", "student", {1: 79.0}, None),
    ]
    head, _, columns, rule, start, uda, vat = networks(
        "methods: all (demo)", [9], lines, {"UDA": "448"}, "start"
    ).splitlines()
    assert head == "**methods: all (demo)**, 9 test faces:" and rule.count("|") == columns.count("|") == 11
    assert columns.startswith(
        "| row | labels | seeds | student | gain over start | p | average | gain over start | p |"
    )
    assert start == "| start | 10% | 2 | 81.0 ± 1.4 % | – | – | 81.0 ± 1.4 % | – | – | – |"
    assert uda.startswith("| UDA | 10% | 2 | 82.2 ± 1.8 % | +1.2 (") and uda.endswith(" | 84.0 % | – | – | 448 |")
    assert vat == "| VAT | 10% | 1 | 79.0 % | – | – | – | – | – | – |" and columns.endswith(" | ms a step of 64 + 64 |")


def test_the_printed_number_stands_after_the_average() -> None:
    lines = [Line("A", "25/class", "student", {1: 50.0}, None), Line("A", "25/class", "average", {1: 51.0}, 59.81)]
    *_, columns, _, row = networks("table3: few (RAF-DB)", [9], lines, {}, "SSFER").splitlines()
    assert columns.endswith("| p | paper, its data |") and row.endswith("| 51.0 % | – | – | 59.8 % |")


def test_rows_of_several_seeds_show_mean_spread_and_the_papers_number() -> None:
    lines = [Line("A", "10%", "", {1: 80.0, 2: 84.0}, None), Line("B", "5%", "2", {1: 1.0, 2: 2.0, 3: 3.0}, 70.17)]
    head, _, columns, _, one, two = one_column("table12: who labels (demo)", [1050], lines).splitlines()
    assert head == "**Table 12: who labels (demo)**, 1,050 test faces:" and columns.count("|") == 7
    assert one == "| A | 10% | 82.0 % | 2.8 | 2 | – |"  # the sample standard deviation of two numbers 4 apart
    assert two == "| B, 2 | 5% | 2.0 % | 1.0 | 3 | 70.2 % |"


def test_a_row_of_one_seed_has_no_spread_and_no_column_is_empty() -> None:
    lines = [Line("A", "10%", "", {1: 80.0}, None), Line("B", "10%", "", {1: 1.0, 2: 2.0}, None)]
    _, _, columns, _, one, _ = one_column("methods: all (demo)", [1050], lines).splitlines()
    assert columns.endswith("| seeds |") and one == "| A | 10% | 80.0 % | – | 1 |"


def test_gains_stand_beside_the_rows_that_are_compared() -> None:
    lines = [
        Line("A", "10%", "", {1: 80.0, 2: 82.0, 3: 81.0}, None),
        Line("B", "10%", "", {1: 79.0, 2: 80.0, 3: 78.0}, None, gain=PairedSeeds((-1.0, -2.0, -3.0))),
    ]
    _, _, columns, rule, one, two = one_column("table12: x", [9], lines, "A").splitlines()
    assert columns.endswith("| seeds | gain over A | p |") and rule.count("|") == columns.count("|")
    assert one.endswith("| 3 | – | – |")
    assert two.endswith("| 3 | −2.0 (−4.5 to +0.5) | 0.074 |")  # t = 2 sqrt(3), two degrees of freedom


def test_time_of_a_step_stands_beside_every_method(root: Path) -> None:
    """As docs/results/benchmarks.md has it, whose network is the demo's; what is not measured has none."""
    rows = catalogue().table("methods").rows
    times = step_times("methods", Study(catalogue(), "demo"))
    assert list(times) == [name for name in list(rows)[1:] if name not in ("FixMatch", "Meta-Face2Exp", "CGMatch")]
    assert len(rows) == 1 + len(METHODS)
    page = (root / "docs/results/benchmarks.md").read_text()
    assert f"| `uda` | 192, 128 | {times['UDA']} | " in page
    assert f"| `ema_teacher` | 192, 128 | {times['EMA teacher (SSFER)']} | " in page
    assert not step_times("table12", Study(catalogue(), "demo"))


def test_only_tables_that_compare_rows_are_shown(root: Path, tmp_path: Path) -> None:
    for name in ("params.yaml", "profiles"):
        (tmp_path / name).symlink_to(root / name)
    assert experiments(tmp_path) == []
    study = Study(catalogue(), "demo")
    first, second = cells(study.catalogue, "table12", "demo")
    folder = tmp_path / "metrics/experiments/demo"
    folder.mkdir(parents=True)
    for cell, model, seed, accuracy, shown in (
        (first, "student", 2024, 0.5, 0),  # nothing beside it
        (first, "student", 2025, 0.6, 0),
        (second, "teacher", 2024, 0.7, 1),
        (second, "teacher", 2025, 0.72, 1),
    ):
        e = study.experiment(cell, seed)
        test = {"images": 9, "sha256": "ab"}
        figures = {"evaluate": {"models": {model: {"last": {"accuracy": accuracy}}}}}
        record = Record(e.name, "demo", e.labels, seed, None, "c", e.settings, label_rule(e.params), {}, test, figures)
        (folder / f"{e.name}.json").write_text(json.dumps(asdict(record)))
        found = experiments(tmp_path)
        assert len(found) == shown
    assert "| FixMatch | 10% | 55.0 % | 7.1 | 2 | – | – |\n| EMA-Teacher | 10% | 71.0 % | 1.4 | 2 | +16.0 (" in found[0]
