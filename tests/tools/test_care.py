"""The list "Read with care": its figures by hand, and what it says where records are missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tools import care


class Figures:
    """Stands for records: (row, point) -> seed -> percent."""

    def __init__(self, found: dict[tuple[str, str], dict[int, float]], splits: dict[int, str] | None = None) -> None:
        self.found = found
        made = [SimpleNamespace(seed=seed, labels="10%", split={"hash": h}) for seed, h in (splits or {}).items()]
        made.append(SimpleNamespace(seed=2024, labels="5%", split={"hash": "of another budget"}))
        self.reader = SimpleNamespace(records=made)
        rows = dict.fromkeys(row for row, _ in found)
        self.study = SimpleNamespace(catalogue=SimpleNamespace(table=lambda _: SimpleNamespace(rows=rows)))

    def values(self, table: str, row: str, point: str = "") -> dict[int, float]:
        return self.found.get((row, point), {})


def any_figures(*args: Any) -> Any:
    return Figures(*args)


def test_rare_classes_compare_the_seeds_that_both_rows_have() -> None:
    found = {
        ("logit adjustment", "accuracy"): {1: 50.0, 2: 52.0},
        ("logit adjustment", "mean recall"): {1: 40.0, 2: 42.0},
        ("SSFER", "accuracy"): {1: 60.0, 2: 62.0, 3: 99.0},
        ("SSFER", "mean recall"): {1: 30.0, 2: 32.0, 3: 99.0},
    }
    assert care.rare_classes(any_figures(found)) == (
        {"accuracy": 0.51, "recall": 0.41, "seeds": "2 seeds"},
        {"accuracy": 0.61, "recall": 0.31, "seeds": "2 seeds"},
    )
    del found["logit adjustment", "accuracy"]
    assert care.rare_classes(any_figures(found)) == (None, None)


def test_the_spread_is_the_largest_of_rows_with_two_seeds() -> None:
    one = any_figures({("a", ""): {1: 1.0, 2: 3.0}, ("b", ""): {1: 50.0}})
    two = any_figures({("a", ""): {1: 1.0, 2: 2.0}})
    assert care.largest_spread(two, one) == pytest.approx(2**0.5)  # of two numbers 2 apart


@pytest.mark.parametrize(("hash_", "told"), [("s", True), ("t", False)])
def test_a_run_and_a_record_are_compared_on_one_split_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hash_: str, told: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("metrics").mkdir()
    evaluate = {"models": {"student": {"last": {"accuracy": 0.75}}}}
    for name, content in (("split", {"hash": "s"}), ("evaluate", evaluate)):
        Path(f"metrics/{name}.json").write_text(json.dumps({name: content}))
    found = care.same_seed(any_figures({(care.GAINS[0], "student"): {2024: 80.0}}, {2024: hash_}), 2024)
    assert found == ({"run": 0.75, "record": 0.8} if told else None)


def test_kinds_of_cpu_are_told_apart_by_the_seeds_that_both_have() -> None:
    rows = {("+ FaceMix", ""): {1: 76.0, 2: 70.0, 3: 9.0}, (care.START, "student"): {1: 75.0, 2: 72.5}}
    assert care.kinds_of_cpu(any_figures(rows)) == 2.5
    assert care.kinds_of_cpu(any_figures({})) is None


def test_the_two_rarest_classes_of_a_run(tmp_path: Path) -> None:
    last = {"accuracy": 0.5, "recall": {"a": 0.1, "b": 0.2, "c": 0.3}}
    counts = {name: {"labeled": n, "valid": 1} for name, n in (("a", 9), ("b", 2), ("c", 5))}
    parts = {"evaluate": {"models": {"teacher": {"last": last}}}, "split": {"per_class": counts, "valid": 3}}
    for name, content in parts.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({name: content}))
    rare = care.cpu_run(tmp_path)["rare"]
    assert [(r["name"], r["labeled"], r["recall"]) for r in rare] == [("b", 2, 0.2), ("c", 5, 0.3)]


def test_every_figure_of_the_list_comes_from_a_field(root: Path) -> None:
    """Digits of the template are part of a name, or the paper's."""
    text = care.TEMPLATE.read_text()
    for known in ("1.2 million", "table 10", "bf16", "Face2Exp"):
        text = text.replace(known, "")
    outside = re.sub(r"\{[{%].*?[%}]\}", "", text, flags=re.DOTALL)
    assert re.findall(r"\d+", outside) == []
    items = care.care_of(root).strip().splitlines()
    assert len(items) >= 5 and all(item.startswith("- ") for item in items)
    assert care.paper_accuracy() == pytest.approx(0.8395)
