"""The catalogue: every setting in it is one that params.yaml takes, every row stands beside a number of the paper."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ssfer.core.errors import SsferError
from ssfer.tables.beside import beside, printed_numbers
from ssfer.tables.budget import Budget, parse_budget
from ssfer.tables.catalogue import CATALOGUE, catalogue, read_catalogue
from ssfer.tables.plan import Cell, Study, cells, lacking

KNOWN = catalogue()
PAPER = ("ferplus", "rafdb", "affectnet7", "affectnet8")


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
    assert list(KNOWN.tables) == [*(f"table{n}" for n in range(2, 17)), "methods", "beyond"]


@pytest.mark.parametrize("dataset", KNOWN.datasets)
def test_every_setting_is_one_that_params_take(root: Path, monkeypatch: pytest.MonkeyPatch, dataset: str) -> None:
    """Building an experiment merges by known keys and checks every value; nothing in a row may be without effect."""
    monkeypatch.chdir(root)
    study = Study(KNOWN, dataset)
    for cell in (c for name in about(dataset) for c in cells(KNOWN, name, dataset)):
        if cell.content.sources or lacking(cell.row, study):
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
        ("rafdb", "table3", "SSFER", "25/class", "", 59.81),
        ("rafdb", "table4", "SSFER", "1000", "", 84.58),
        ("rafdb", "table7", "focused", "25%", "0", 88.23),
        ("ferplus", "table8", "SSFER", "5%", "30%", 76.22),
        ("ferplus", "table8", "SSFER", "5%", "decline 0% to 30%", 5.55),
        ("ferplus-cpu", "table12", "FixMatch", "25%", "", 81.44),
        ("rafdb", "table11", "MAE, faces", "100%", "", 91.19),
        ("ferplus", "table14", "IOU", "10%", "", 83.96),
        ("rafdb", "table16", "SSFER, the paper's optimum", "25%", "", 88.89),
        ("demo", "table10", "Baseline", "10%", "", None),
        ("ferplus", "table4", "SSFER", "400", "", None),
    ],
)
def test_printed_number_beside_a_row(
    dataset: str, table: str, row: str, labels: str, point: str, printed: float | None
) -> None:
    found = [c for c in cells(KNOWN, table, dataset) if (c.name, c.budget.text, c.point) == (row, labels, point)]
    assert len(found) == 1
    number = beside(found[0], KNOWN, dataset)
    assert (number.value if number else None) == printed


def test_every_number_of_the_papers_own_method_stands_beside_one_cell() -> None:
    """Of tables 5 and 7 to 16; FERPlus with seven classes, only in table 4, is no data set of ours."""
    shown: dict[Any, list[Cell]] = {}
    for dataset in (*PAPER, "adience_age", "adience_gender"):
        for cell in (c for name in about(dataset) for c in cells(KNOWN, name, dataset)):
            number = beside(cell, KNOWN, dataset)
            if number is not None and not cell.row.search:
                shown.setdefault(number, []).append(cell)
    assert [cells for cells in shown.values() if len(cells) != 1] == []
    others = {"table10", "table11", "table12", "table13", "table14", "table15"}  # all rows are the authors' own
    own = [
        p
        for p in printed_numbers()
        if (p.method.startswith("SSFER") or p.table in others) and p.dataset != "FERPlus (7-class)"
    ]
    assert [str((p.table, p.dataset, p.method, str(p))) for p in own if p not in shown] == []


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
