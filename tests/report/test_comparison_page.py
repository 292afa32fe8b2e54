"""The page of `ssfer compare --html`: figures by hand, settings that differ, and nothing that is loaded."""

from __future__ import annotations

import re
from typing import Any

from ssfer.report.comparison_page import build_comparison
from ssfer.tables.compare import Run
from tests.support.report_runs import Page

TRUTH = ["a", "a", "a", "b", "b"]


def run(name: str, predicted: str, params: str = "split: {seed: 1}", **models: float) -> Run:
    headline = {"accuracy": 0.6, "accuracy_ci95": [0.2, 0.9], "mean_recall": 0.5, "ece": 0.125}
    last = {model: {"last": {"accuracy": accuracy}} for model, accuracy in models.items()}
    evaluate: dict[str, Any] = {"classes": ["a", "b"], "headline": headline, "models": last}
    return Run(name, evaluate, {"labeled": 10, "valid": 2}, params, TRUTH, list(predicted))


def rows(page: str, section: str) -> list[list[str]]:
    """Return the cells of a section's table, without the head."""
    table = page.partition(f'<h2 id="{section}">')[2].partition("</table>")[0]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in table.split("<tr>")[2:]]
    return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in row] for row in cells]


def test_classes_and_models_by_hand() -> None:
    before, after = run("HEAD", "aabbb", teacher=0.8, plain=0.5), run("workspace", "abaab", teacher=0.6, vat=0.4)
    text = build_comparison([before, after], [None, 90.0])
    assert "workspace compared with HEAD" in text and "1 images gained, 2 lost" in text
    # a: two of three found before and after, one gained and one lost; b: both, then one
    assert rows(text, "classes") == [["a", "3", "66.7%", "66.7%", "1", "1"], ["b", "2", "100.0%", "50.0%", "0", "1"]]
    assert rows(text, "models") == [
        ["+ MAE pretraining", "50.0%", "–", "–"],
        ["+ EMA teacher", "80.0%", "60.0%", "−20.0"],
        ["vat", "–", "40.0%", "–"],
    ]
    assert rows(text, "runs")[1][-1] == "2 min" and rows(text, "runs")[0][-1] == "–"


def test_settings_that_differ_are_listed_without_those_of_the_machine() -> None:
    before = run("A", "aabbb", "split: {seed: 1, fold: null}\nmachine: {device: cpu}\nold: {key: 1}")
    after = run("B", "aabbb", "split: {seed: 2, fold: null}\nmachine: {device: cuda}")
    found = rows(build_comparison([before, after], [None, None]), "settings")
    assert found == [["split.seed", "1", "2"], ["old.key", "1", "–"]]
    assert "None in params.yaml" in build_comparison([before, before], [None, None])


def test_three_runs_are_compared_with_the_first() -> None:
    text = build_comparison([run("A", "aabbb"), run("B", "aaabb"), run("<C>", "bbbbb")], [None] * 3)
    assert "B, &lt;C&gt; compared with A" in text and rows(text, "classes")[0][3:] == [
        "100.0%",
        "1",
        "0",
        "0.0%",
        "0",
        "2",
    ]


def test_the_page_loads_nothing_and_its_links_lead_somewhere() -> None:
    text = build_comparison([run("A", "aabbb"), run("B", "aaabb")], [None, None])
    page = Page(text)
    assert not page.sources and {link.removeprefix("#") for link in page.links} <= {*page.ids}
    assert "default-src 'none'" in text and not {"script", "link"} & page.tags
