"""The page on the paper's claims: what a comparison says, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssfer.evaluation.paired import PairedSeeds
from ssfer.tables.catalogue import catalogue
from tools import claims
from tools.budgets import RUNS
from tools.claim_records import Records


@pytest.mark.parametrize(
    ("differences", "says"),
    [
        ((1.0, 2.0, 3.0), "not shown"),  # p = 0.074
        ((2.0, 2.1, 2.2), "**holds**"),
        ((-2.0, -2.1, -2.2), "**does not hold**"),
        ((1.0, 1.0), "not shown"),  # no spread, no test
        ((2.0, 2.1), "holds, two seeds"),  # p = 0.016, but a test with one degree of freedom
    ],
)
def test_a_claim_holds_only_if_chance_does_not_explain_the_gain(differences: tuple[float, ...], says: str) -> None:
    assert claims.verdict(PairedSeeds(differences)) == says


def test_without_two_shared_seeds_a_claim_is_open() -> None:
    assert claims.verdict(None) == "open"
    claim = claims.Claim("X helps", "table10", "Baseline", "+ FaceMix")
    row = claims._row(claim, "demo", {1: 80.0}, {}, None, 1000)
    assert row == "| X helps | rendered | 80.0 % | – | – | – | – | open |"


def test_a_row_by_hand() -> None:
    claim = claims.Claim("X helps", "table10", "Baseline", "+ FaceMix")
    row = claims._row(claim, "demo", {1: 80.0, 2: 82.0}, {1: 79.0, 2: 84.0}, PairedSeeds((-1.0, 2.0)), 1000)
    # standard error 1.5, t quantile 12.706 with one degree of freedom; p = 1 - 2 atan(1 / 3) / pi
    assert row == "| X helps | rendered | 81.0 % | 81.5 % | +0.5 (−18.6 to +19.6) | 2 | 0.795 | not shown |"


@pytest.mark.parametrize(
    ("with_it", "says"), [(56.2, "holds, one seed"), (56.1, "not shown, one seed"), (43.8, "does not hold, one seed")]
)
def test_one_shared_seed_is_judged_by_the_intervals_of_its_runs(with_it: float, says: str) -> None:
    """Wilson's intervals: 46.91 to 53.09 % of 500 of 1,000, that of 562 begins at 53.11, of 438 ends at 46.89 %."""
    claim = claims.Claim("X helps", "table10", "Baseline", "+ FaceMix")
    row = claims._row(claim, "demo", {1: 50.0, 2: 9.0}, {1: with_it}, None, 1000)
    assert row.endswith(f"| {claims.points(with_it - 50)} | 1 | – | {says} |")


def test_what_the_seeds_of_an_unclear_gain_have_in_common_is_counted() -> None:
    assert claims.doubt(PairedSeeds((1.0, 2.0, 3.0))) == "Every seed gains, but they are few."
    assert claims.doubt(PairedSeeds((1.0, -2.0, 3.0))) == "2 of 3 seeds gain."
    assert claims.doubt(PairedSeeds((2.0, 2.1, 2.2))) == ""


def test_every_claim_names_rows_of_the_catalogue_and_reasons_of_known_data() -> None:
    for claim in claims.CLAIMS:
        assert {claim.first, claim.second} <= set(catalogue().table(claim.table).rows)
        assert {*claim.why, *claim.note} <= set(claim.datasets)


def test_runs_that_start_from_different_weights_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A common fine-tuned network tells; without one the pretrained weights do."""

    def run(pretrained: str, **models: float) -> SimpleNamespace:
        found = {name: {"last": {"accuracy": value}} for name, value in models.items()}
        return SimpleNamespace(pretrained=pretrained, metrics={"evaluate": {"models": found}})

    rows = ("labels only (the start)", "FixMatch")
    runs = {
        (rows[0], 1): run("a", facemix=0.7, facemix_ema=0.71),
        (rows[1], 1): run("a", facemix=0.7, student=0.8),
        (rows[0], 2): run("a", facemix=0.7),
        (rows[1], 2): run("a", facemix=0.6),
        (rows[0], 3): run("a", facemix=0.7),
        (rows[1], 3): run("b", student=0.8),
        (rows[0], 4): run("a", facemix=0.7),
    }
    records = Records("demo")
    records.reader.seeds = [1, 2, 3, 4]
    monkeypatch.setattr(records.reader, "record", lambda cell, seed: runs.get((cell.name, seed)))
    assert records.apart("methods", rows, "student").startswith(
        "With 2 of 3 seeds the two start from different weights"
    )
    records.reader.seeds = [1, 4]
    assert records.apart("methods", rows, "student") == ""


def test_tables_with_fewer_than_two_rows_are_open() -> None:
    text = claims._open("**Table 10: a**\n\n**Table 13: b**\n")
    assert ": 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 14, 15, 16." in text


@pytest.mark.parametrize(("low", "says"), [(0.61, "holds, one seed"), (0.60, "not shown, one seed")])
def test_single_runs_are_told_apart_by_their_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: float, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    first = {"last": {"accuracy": 0.5, "accuracy_ci95": [0.4, 0.6]}}
    second = {"last": {"accuracy": 0.7, "accuracy_ci95": [low, 0.8]}}
    for folder in RUNS.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
        models = {"scratch": first, "plain": second, "teacher": second}
        Path(folder, "evaluate.json").write_text(json.dumps({"evaluate": {"models": models}}))
    rows = list(claims._first_steps())
    assert rows[0].endswith(f"| rendered | 50.0 % | 70.0 % | +20.0 | 1 | – | {says} |") and len(rows) == 3
