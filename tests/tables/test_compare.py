"""`ssfer compare`: runs of commits, experiments and the working tree side by side, and what cannot be compared."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ssfer.cli.main import app
from ssfer.config.identity import identity
from ssfer.config.schema import load_params
from ssfer.core.errors import SsferError
from ssfer.core.files import json_bytes
from ssfer.evaluation.paired import Paired
from ssfer.formats.metrics import write_metrics
from ssfer.tables.compare import check_same_test, differences, read_run, resolve

ROOT = Path(__file__).resolve().parents[2]
TRUTH = ["a", "a", "b", "b"]


def git(*args: str) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost", *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that writes the results of a run into a fresh repository."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())

    def results(predicted: str, truth: list[str] = TRUTH, sha: str | None = "t", labeled: int = 10) -> None:
        right = sum(a == b for a, b in zip(truth, predicted, strict=True))
        headline = {"accuracy": right / 4, "accuracy_ci95": [0.1, 0.9], "mean_recall": 0.5, "ece": 0.125}
        details: dict[str, Any] = {"headline": headline, "classes": ["a", "b"], "test_images": len(truth)}
        write_metrics("evaluate", details | ({"test_sha256": sha} if sha else {}))
        write_metrics("split", {"labeled": labeled, "valid": 2})
        with open("metrics/confusion.csv", "w", newline="") as file:
            csv.writer(file).writerows([("actual", "predicted"), *zip(truth, predicted, strict=True)])

    return results


@pytest.fixture
def committed(write: Callable[..., None]) -> Callable[..., None]:
    """The same with one run committed."""
    write("aabb")
    git("add", "-A")
    git("commit", "-qm", "first")
    return write


def test_the_table_has_the_figures_of_both_and_the_test_of_the_pair(committed: Callable[..., None]) -> None:
    committed("bbbb", labeled=20)
    shown = CliRunner().invoke(app, ["compare"])
    assert shown.exit_code == 0
    head, workspace = (line.split() for line in shown.output.splitlines() if line.startswith(("  HEAD", "  workspace")))
    assert head[:4] == ["HEAD", "12", "100.0", "%"] and workspace[:4] == ["workspace", "22", "50.0", "%"]
    assert "0.125" in head and head[-1] == "–", "no mlflow.db, so no time"
    assert "workspace minus HEAD: -50.0 points" in shown.output
    assert "0 images gained, 2 lost, McNemar p = 0.250." in shown.output
    assert max(map(len, shown.output.splitlines()[:6])) <= 120


def test_results_older_than_the_settings_are_said(committed: Callable[..., None]) -> None:
    committed("bbbb")

    def made_by(params: Any) -> None:
        made = json_bytes(identity("evaluate", params))
        entry = {"path": "data/identity/evaluate.json", "md5": hashlib.md5(made).hexdigest()}
        Path("dvc.lock").write_text(json.dumps({"stages": {"evaluate": {"deps": [entry]}}}))

    made_by(load_params())
    assert "older results" not in CliRunner().invoke(app, ["compare"]).stderr
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("method: ema_teacher", "method: fixmatch", 1))
    shown = CliRunner().invoke(app, ["compare"])
    assert "workspace has older results: what stage evaluate depends on has changed; `ssfer run`" in shown.stderr


def test_html_writes_a_page_too(committed: Callable[..., None]) -> None:
    committed("bbbb")
    shown = CliRunner().invoke(app, ["compare", "--html", "new/page.html"])
    assert shown.exit_code == 0 and shown.output.endswith("wrote new/page.html\n") and "McNemar" in shown.output
    assert "<h1>workspace compared with HEAD</h1>" in Path("new/page.html").read_text()
    for wrong, file in (("no-such-run", "x.html"), ("HEAD", "metrics")):
        assert CliRunner().invoke(app, ["compare", wrong, "--html", file]).exit_code == 2
    assert not Path("x.html").exists() and Path("metrics/evaluate.json").is_file()


def test_an_experiment_is_found_by_its_name(committed: Callable[..., None]) -> None:
    head = git("rev-parse", "HEAD")
    git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/labels-0.05", head)
    assert resolve("labels-0.05") == resolve("main") == head
    assert read_run("labels-0.05").right == [True] * 4


def test_files_of_an_earlier_ssfer_are_compared_by_the_classes_of_the_test_images(
    committed: Callable[..., None],
) -> None:
    committed("abbb", sha=None)
    runs = [read_run("HEAD"), read_run("workspace")]
    check_same_test(runs)
    assert [found for _, found in differences(runs)] == [Paired(gained=0, lost=1, total=4)]


@pytest.mark.parametrize(
    "other",
    [
        {"predicted": "aabb", "sha": "u"},
        {"predicted": "aabb", "truth": ["b", "a", "b", "a"], "sha": None},
        {"predicted": "aabbb", "truth": [*TRUTH, "b"], "sha": None},
    ],
    ids=["ids", "classes", "count"],
)
def test_runs_with_different_test_images_are_refused(committed: Callable[..., None], other: dict[str, Any]) -> None:
    committed(**other)
    shown = CliRunner().invoke(app, ["compare"])
    assert shown.exit_code == 2
    with pytest.raises(SsferError, match="HEAD and workspace were tested on different images .*cannot be compared"):
        check_same_test([read_run("HEAD"), read_run("workspace")])


@pytest.mark.parametrize("name", ["no-such-run", "HEAD~5", "--all", "x^{tree}"])
def test_an_unknown_revision_is_one_sentence(committed: Callable[..., None], name: str) -> None:
    with pytest.raises(SsferError, match="is no commit, branch, tag or DVC experiment of this project"):
        read_run(name)


def test_results_that_are_missing_or_damaged_are_named(committed: Callable[..., None]) -> None:
    Path("metrics/evaluate.json").write_text(json.dumps({"evaluate": 3}))
    with pytest.raises(SsferError, match=r"files in metrics/ of workspace cannot be read .*run dvc repro evaluate"):
        read_run("workspace")
    Path("metrics/confusion.csv").unlink()
    Path("metrics/evaluate.json").unlink()
    with pytest.raises(SsferError, match=r"workspace has no metrics/evaluate.json: stage evaluate has not run"):
        read_run("workspace")
