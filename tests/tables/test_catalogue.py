"""The catalogue: every setting in it is one that params.yaml takes, every row stands beside a number of the paper."""

from __future__ import annotations

import csv
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ssfer.cli.fetch import PUBLISHED
from ssfer.core.errors import SsferError
from ssfer.methods.registry import METHODS
from ssfer.methods.shared.self_training import SelfTraining
from ssfer.tables import accounting
from ssfer.tables.beside import beside
from ssfer.tables.budget import Budget, parse_budget
from ssfer.tables.catalogue import CATALOGUE, catalogue, read_catalogue
from ssfer.tables.paper import TABLES
from ssfer.tables.plan import Cell, Study, cells, lacking

KNOWN = catalogue()
PAPER = ("ferplus", "ferplus7", "rafdb", "affectnet7", "affectnet8")


def about(dataset: str) -> list[str]:
    """Tables that a data set can be asked for."""
    found = []
    for name in KNOWN.tables:
        try:
            KNOWN.budgets(name, dataset)
        except SsferError:
            continue
        found.append(name)
    return found


def test_all_tables_of_the_paper_are_there() -> None:
    assert list(KNOWN.tables) == [
        *(f"table{n}" for n in range(2, 17)),
        "methods",
        "recipes",
        "shipped",
        "own_training",
        "leaf_parts",
        "beyond",
    ]


@pytest.mark.parametrize("dataset", KNOWN.datasets)
def test_every_setting_is_one_that_params_take(root: Path, monkeypatch: pytest.MonkeyPatch, dataset: str) -> None:
    """Building an experiment merges by known keys and checks every value; nothing in a row may be without effect."""
    monkeypatch.chdir(root)
    study = Study(KNOWN, dataset)
    for cell in (c for name in about(dataset) for c in cells(KNOWN, name, dataset)):
        if not cell.content.measured or lacking(cell.row, study):
            continue
        settings = study.experiment(cell, 2024).settings
        for key, value in {**cell.row.set, **cell.content.set, **cell.budget.settings}.items():
            assert settings[key] == value, (cell.table, cell.name, key)


def test_rows_that_start_from_a_file_are_valid_too(project: Path) -> None:
    """Where the files are there, the rows have their paths and hashes."""
    for row in KNOWN.table("table11").rows.values():
        if row.start:
            Path(row.start).parent.mkdir(parents=True, exist_ok=True)
            Path(row.start).write_bytes(b"weights")
    study = Study(KNOWN, "rafdb")
    found = {c.name: study.experiment(c, 2024).settings for c in cells(KNOWN, "table11", "rafdb")}
    sha = sha256(b"weights").hexdigest()
    started = found["supervised, ImageNet-21k"]
    assert (started["pretrain.init_from"], started["pretrain.init_sha256"], started["pretrain.epochs"]) == (
        "data/weights/imported/vit_base_imagenet21k.safetensors",
        sha,
        0,
    )
    assert found["MAE, faces"]["pretrain.init_from"] is None
    assert len({str(s) for s in found.values()}) == 3


@pytest.mark.parametrize(
    ("dataset", "table", "row", "labels", "point", "printed"),
    [
        ("ferplus", "table10", "Baseline", "10%", "", 82.60),
        ("ferplus", "table10", "+ FaceMix + EMA-Teacher", "5%", "", 81.77),
        ("rafdb", "table3", "SSFER", "25/class", "average", 59.81),
        ("rafdb", "table4", "SSFER", "1000", "average", 84.58),
        ("rafdb", "table7", "focused", "25%", "0", 88.23),
        ("ferplus", "table8", "SSFER", "5%", "30%", 76.22),
        ("ferplus", "table8", "SSFER", "5%", "decline 0% to 30%", 5.55),
        ("ferplus-vit", "table12", "FixMatch", "25%", "", 81.44),
        ("rafdb", "table11", "MAE, faces", "100%", "", 91.19),
        ("ferplus", "table14", "IOU", "10%", "", 83.96),
        ("rafdb", "table16", "SSFER, the paper's optimum", "25%", "", 88.89),
        ("demo", "table10", "Baseline", "10%", "", None),
        ("ferplus", "table4", "SSFER", "400", "average", None),
        ("ferplus7", "table4", "SSFER", "400", "average", 77.61),
        ("ferplus7", "table4", "Ada-CM", "4000", "average", 74.96),
        ("ferplus7", "table4", "Meta-Face2Exp", "4000", "average", 76.87),
        ("rafdb", "table5", "ResNet-50", "100%", "average", 75.42),
        ("rafdb", "table6", "VGG13", "100%", "accuracy", 85.69),
        ("rafdb", "table6", "VGG13", "100%", "parameters, M", 128.9),
        ("rafdb", "table6", "SSFER", "25%", "GMACs", 16.9),
        ("adience_age", "table9", "ViT-Base", "100%", "1", 64.5),
        ("rafdb", "table7", "random, as many pixels as focused", "25%", "0.02", None),
    ],
)
def test_printed_number_beside_a_row(
    dataset: str, table: str, row: str, labels: str, point: str, printed: float | None
) -> None:
    found = [c for c in cells(KNOWN, table, dataset) if (c.name, c.budget.text, c.point) == (row, labels, point)]
    assert len(found) == 1
    number = beside(found[0], KNOWN, dataset)
    assert (number.value if number else None) == printed


def test_every_number_of_the_paper_stands_beside_one_cell_or_is_cited() -> None:
    shown: dict[Any, list[Cell]] = {}
    for dataset in (*PAPER, "adience_age", "adience_gender"):
        for cell in (c for name in about(dataset) for c in cells(KNOWN, name, dataset)):
            number = beside(cell, KNOWN, dataset)
            if number is not None and not cell.row.search:
                shown.setdefault(number, []).append(cell)
    assert [cells for cells in shown.values() if len(cells) != 1] == []
    account = accounting.account(KNOWN)
    assert str(account) == "924 of 924 printed results accounted for: 723 beside a row, 201 cited"
    with open(TABLES, newline="") as file:
        numbers = [row for row in csv.DictReader(file) if row["table"] != "1"]
    assert len(numbers) == account.printed and set(account.rows) == set(shown)
    cited = {(p.table, p.method) for p in account.cited}
    assert cited == {(name, method) for name, table in KNOWN.tables.items() for method in table.cited}
    own = {"table5", "table7", *(f"table{n}" for n in range(9, 17))}  # the authors ran all of these
    assert not own & {table for table, _ in cited}


def test_a_result_without_row_and_citation_is_counted_as_left() -> None:
    table = KNOWN.table("table8").model_copy(update={"cited": ("SCN (enabled)",)})
    account = accounting.account(KNOWN.model_copy(update={"tables": {**KNOWN.tables, "table8": table}}), "table8")
    assert str(account) == "40 of 90 printed results accounted for: 30 beside a row, 10 cited"
    assert {p.method for p in account.left} == {*KNOWN.table("table8").cited} - {"SCN (enabled)"}


def test_a_rows_own_budget_has_no_printed_number_at_another_one() -> None:
    row = KNOWN.baselines["VGG13"]
    full, tenth = (cells(KNOWN, "table6", "rafdb", [parse_budget(text)] if text else []) for text in ("", "10%"))
    found = [[beside(c, KNOWN, "rafdb") for c in points if c.row == row] for points in (full, tenth)]
    assert [p and p.value for p in found[0]] == [85.69, 128.9, 11.4]
    assert found[1] == [None] * 3


def test_files_that_rows_start_from_can_be_fetched_by_their_names() -> None:
    starts = {Path(row.start) for table in KNOWN.tables.values() for row in table.rows.values() if row.start}
    assert len(starts) == 12
    for start in starts:
        published = PUBLISHED[start.stem]
        assert published.folder / f"{start.stem}.safetensors" == start and published.url.startswith("https://")


def test_rows_with_profiles_have_their_settings(project: Path) -> None:
    study = Study(KNOWN, "rafdb")
    (cell, *_) = (c for c in cells(KNOWN, "own_training", "rafdb") if c.name == "LEAF, its release")
    settings = study.experiment(cell, 2024).settings
    assert (settings["semisup.epochs"], settings["semisup.lr"], settings["methods.leaf.shared_expert"]) == (
        42,
        5e-4,
        True,
    )


def test_leafs_parts_are_rows_in_every_method_that_takes_them() -> None:
    taking = {name for name in METHODS if METHODS[name].forward is SelfTraining.forward}
    rows = KNOWN.table("leaf_parts").rows.values()
    assert {row.set.get("semisup.method", "ema_teacher") for row in rows} == taking
    assert len(rows) == 3 * len(taking), "one, the other, both"


def test_tables_say_which_data_sets_they_are_about() -> None:
    with pytest.raises(
        SsferError, match=r"^table9 \(Age and gender.*\) is about adience_age, adience_gender; found 'd"
    ):
        KNOWN.budgets("table9", "demo")
    assert [b.text for b in KNOWN.budgets("table7", "affectnet7")] == ["10%"]
    assert [b.text for b in KNOWN.budgets("table10", "affectnet7")] == ["1%", "5%", "10%"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["tables"]["table5"].update(axis="flod"), "unknown axis of table5 'flod'; did you mean 'fold'"),
        (lambda c: c["tables"]["table9"].update(datasets=["adiense_age"]), "did you mean 'adience_age'"),
        (lambda c: c["axes"]["fold"]["average"].update(mean_of=["6"]), "needs the measured point '6'"),
        (lambda c: c["tables"]["table10"]["rows"]["Baseline"].update(metric="finetune/loss"), "metric"),
        (lambda c: c["tables"]["table10"].update(colour="red"), "colour"),
        (
            lambda c: c["tables"]["methods"]["rows"]["FixMatch"].update(
                metric={"student": ["evaluate/headline/accuracy"]}
            ),
            "row 'FixMatch' of methods: its metric needs the points average, student",
        ),
        (lambda c: c["datasets"]["demo"].update(labels=["tenth"]), "'tenth' is no label budget"),
    ],
)
def test_a_wrong_catalogue_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    content = YAML(typ="safe", pure=True).load(CATALOGUE.read_text())
    change(content)
    path = tmp_path / "catalogue.yaml"
    with open(path, "w") as file:
        YAML(typ="safe", pure=True).dump(content, file)
    with pytest.raises(SsferError, match=message) as refusal:
        read_catalogue(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "count", "unit", "settings"),
    [
        ("10%", "10", "%", (0.1, None, None)),
        ("0.1", "10", "%", (0.1, None, None)),
        (".05", "5", "%", (0.05, None, None)),
        ("2.5%", "2.5", "%", (0.025, None, None)),
        ("1.0", "100", "%", (1.0, None, None)),
        ("25/class", "25", "/class", (None, 25, None)),
        ("400", "400", "", (None, None, 400)),
    ],
)
def test_budgets(text: str, count: str, unit: str, settings: tuple[Any, ...]) -> None:
    budget = parse_budget(text)
    assert budget == Budget(count, unit)
    keys = ("split.labeled_fraction", "split.labeled_per_class", "split.labeled_total")
    assert budget.settings == dict(zip(keys, settings, strict=True))
    assert parse_budget(budget.text) == budget


@pytest.mark.parametrize("text", ["", "ten", "-5", "0", "0%", "101%", "1.5", "25/klass", "0/class", "10 %%"])
def test_a_wrong_budget_is_refused(text: str) -> None:
    with pytest.raises(SsferError, match="label budget"):
        parse_budget(text)
