"""Metrics of the user's own: found by file, called with probabilities, labels and classes, stored beside the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssfer.config.identity import identity, settings
from ssfer.config.schema import load_params, parse_params
from ssfer.core.errors import SsferError
from ssfer.evaluation.metric import own_metrics

PROBS, LABELS = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([0, 1, 1])
OWN = """
from ssfer.evaluation.metric import Metric

class Recall(Metric):
    class Settings(Metric.Settings):
        of: str = "anger"

    def __call__(self, probs, labels, classes):
        mine = labels == classes.index(self.settings.of)
        return (probs.argmax(1)[mine] == labels[mine]).mean() if mine.any() else float("nan")

class Words(Metric):
    def __call__(self, probs, labels, classes):
        return "good"

class Other:
    pass
"""


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    values = load_params(Path("params.yaml")).model_dump(mode="json")
    (tmp_path / "recall.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return values


@pytest.mark.parametrize("value", ["'0.5'", "1j", "np.array([0.5])", "None", "np.complex128(1)"])
def test_a_metric_returns_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    body = f"class Odd(Metric):\n    def __call__(self, probs, labels, classes):\n        return {value}\n"
    (tmp_path / "odd.py").write_text(f"import numpy as np\nfrom ssfer.evaluation.metric import Metric\n{body}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SsferError, match="metric './odd.py:Odd' must return a number, found"):
        own_metrics(["./odd.py:Odd"], {}, PROBS, LABELS, ["fear", "anger"], {})


def test_a_metric_of_the_users_own_is_measured_and_counts(raw: dict[str, Any]) -> None:
    name = "./recall.py:Recall"
    assert own_metrics([name], {}, PROBS, LABELS, ["fear", "anger"], {}) == {"recall": 0.5}
    assert own_metrics([name], {}, PROBS, np.zeros(3, int), ["fear", "anger"], {}) == {"recall": None}
    raw["evaluate"]["metrics"] = [name]
    raw["metrics"] = {"recall": {"of": "fear"}}
    params = parse_params(raw)
    assert own_metrics([name], params.metrics, PROBS, LABELS, ["fear", "anger"], {}) == {"recall": 1.0}
    assert settings("evaluate", params)["metrics.recall.of"] == "fear"
    assert "recall.py" in identity("evaluate", parse_params(raw))["code"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("recal", "unknown metric 'recal'"),
        ("./recall.py:Other", "is no metric: expected a class derived from Metric"),
        ("./recall.py:Nobody", "recall.py has no class Nobody"),
        (3, r"'evaluate.metrics.0': Input should be a valid string \(found 3\)"),
    ],
)
def test_a_wrong_metric_is_refused_in_params(raw: dict[str, Any], name: Any, message: str) -> None:
    raw["evaluate"]["metrics"] = [name]
    with pytest.raises(SsferError, match=message):
        parse_params(raw)


def test_two_metrics_of_one_name_are_refused_before_any_training(raw: dict[str, Any]) -> None:
    raw["evaluate"]["metrics"] = ["./recall.py:Recall", "./recall.py:Recall"]
    with pytest.raises(SsferError, match="two would be called recall, by their file; rename a file"):
        parse_params(raw)


@pytest.mark.parametrize(
    ("names", "taken", "message"),
    [
        (["./recall.py:Words"], {}, "must return a number, found 'good'"),
        (["./recall.py:Recall"], {"recall": 1}, "there is a number called recall already"),
        (["./recall.py:Recall"] * 2, {}, "there is a number called recall already"),
    ],
)
def test_a_wrong_result_is_one_sentence(
    raw: dict[str, Any], names: list[str], taken: dict[str, Any], message: str
) -> None:
    with pytest.raises(SsferError, match=message):
        own_metrics(names, {}, PROBS, LABELS, ["fear", "anger"], taken)
