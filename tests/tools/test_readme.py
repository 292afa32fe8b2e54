"""README.md: one screen, and its numbers are those of metrics/."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import subprocess
import zipfile
from dataclasses import asdict
from pathlib import Path

from ssfer.config.identity import label_rule
from ssfer.evaluation.paired import PairedSeeds
from ssfer.formats.metrics import read_metrics
from ssfer.methods.registry import METHODS
from ssfer.tables.catalogue import catalogue
from ssfer.tables.numbers import Line
from ssfer.tables.plan import Study, cells
from ssfer.tables.records import Record
from tools import readme
from tools.attack import FOUND, REGIONS, attack_of


def test_results_are_those_of_metrics(root: Path, tmp_path: Path) -> None:
    """Of the committed metrics, or of those in the working tree: a run on another machine may give other numbers."""
    text, page, holds = ((root / name).read_text() for name in ("README.md", "docs/results/results.md", readme.HOLDS))

    def is_of(place: Path) -> bool:
        if text != readme.insert(text, readme.summary(place)) or page != readme.page(place):
            return False
        return holds == readme.what_holds(holds, place, page)

    if is_of(root):
        return
    command = ["git", "-C", str(root), "archive", "--format=zip", "HEAD", "metrics", "params.yaml", "profiles"]
    archive = subprocess.run(command, capture_output=True)
    assert archive.returncode == 0, "run `make table`"
    with zipfile.ZipFile(io.BytesIO(archive.stdout)) as file:
        file.extractall(tmp_path)
    assert is_of(tmp_path), "run `make table`"


def test_the_attack_has_its_control_and_a_sentence_that_the_figures_support(root: Path, tmp_path: Path) -> None:
    section = read_metrics("robustness", root / "metrics")
    measured = section["models"]["teacher"]
    text = attack_of(root / "metrics")
    assert text in readme.page(root) and FOUND in text
    for region in REGIONS:
        assert f" | {100 * measured[region]['0.02']['accuracy']:.1f} % (" in text
    assert text.count(f"| {100 * measured['focused_share']:.1f} % |") == 2, "equal areas"
    assert attack_of(tmp_path) == ""
    for weaker, stronger in (("focused", "unfocused"), ("random", "focused")):
        changed = copy.deepcopy(section)
        attacked = changed["models"]["teacher"]
        attacked[weaker]["0.02"], attacked[stronger]["0.02"] = attacked[stronger]["0.02"], attacked[weaker]["0.02"]
        (tmp_path / "robustness.json").write_text(json.dumps({"robustness": changed}))
        assert FOUND not in attack_of(tmp_path)


def test_table_row_shows_the_numbers_of_its_model() -> None:
    last = {"accuracy": 0.5, "accuracy_ci95": [0.4, 0.6], "mean_recall": 0.25, "macro_f1": 0.125, "ece": 0.0625}
    row = readme._row("x", {"last": last, "best": {**last, "accuracy": 0.75}})
    assert row == "| x | 50.0 % (40.0–60.0) | 75.0 % | 25.0 % | 12.5 % | 0.062 |"
    assert "| – |" in readme._row("x", {"last": last})


def test_rows_of_several_seeds_show_mean_spread_and_the_papers_number() -> None:
    lines = [Line("A", "10%", "", {1: 80.0, 2: 84.0}, None), Line("B", "5%", "2", {1: 1.0, 2: 2.0, 3: 3.0}, 70.17)]
    head, _, columns, _, one, two = readme._spread("table12: who labels (demo)", [1050], lines, {}).splitlines()
    assert head == "**Table 12: who labels (demo)**, 1,050 test faces:" and columns.count("|") == 7
    assert one == "| A | 10% | 82.0 % | 2.8 | 2 | – |"  # the sample standard deviation of two numbers 4 apart
    assert two == "| B, 2 | 5% | 2.0 % | 1.0 | 3 | 70.2 % |"


def test_a_row_of_one_seed_has_no_spread_and_no_column_is_empty() -> None:
    lines = [Line("A", "10%", "", {1: 80.0}, None), Line("B", "10%", "", {1: 1.0, 2: 2.0}, None)]
    _, _, columns, _, one, _ = readme._spread("methods: all (demo)", [1050], lines, {}).splitlines()
    assert columns.endswith("| seeds |") and one == "| A | 10% | 80.0 % | – | 1 |"


def test_gains_stand_beside_the_rows_that_are_compared() -> None:
    lines = [
        Line("A", "10%", "", {1: 80.0, 2: 82.0, 3: 81.0}, None),
        Line("B", "10%", "", {1: 79.0, 2: 80.0, 3: 78.0}, None, gain=PairedSeeds((-1.0, -2.0, -3.0))),
    ]
    _, _, columns, rule, one, two = readme._spread("table12: x", [9], lines, {}, "A").splitlines()
    assert columns.endswith("| seeds | gain over A | p |") and rule.count("|") == columns.count("|")
    assert one.endswith("| 3 | – | – |")
    assert two.endswith("| 3 | −2.0 (−4.5 to +0.5) | 0.074 |")  # t = 2 sqrt(3), two degrees of freedom


def test_time_of_a_step_stands_beside_every_method(root: Path) -> None:
    """As docs/results/benchmarks.md has it, whose network is the demo's; what is not measured has none."""
    rows = catalogue().table("methods").rows
    times = readme.step_times("methods", Study(catalogue(), "demo"))
    assert list(times) == [name for name in list(rows)[1:] if name not in ("FixMatch", "Meta-Face2Exp", "CGMatch")]
    assert len(rows) == 1 + len(METHODS)
    page = (root / "docs/results/benchmarks.md").read_text()
    assert f"| `uda` | 192, 128 | {times['UDA']} | " in page
    assert f"| `ema_teacher` | 192, 128 | {times['EMA teacher (SSFER)']} | " in page
    assert not readme.step_times("table12", Study(catalogue(), "demo"))
    lines = [Line("start", "10%", "", {1: 80.0}, None), Line("UDA", "10%", "", {1: 80.0}, None)]
    *_, columns, _, one, two = readme._spread("methods: all (demo)", [1050], lines, {"UDA": "448"}).splitlines()
    assert columns.endswith("| seeds | ms a step |")
    assert one == "| start | 10% | 80.0 % | – | 1 | – |" and two == "| UDA | 10% | 80.0 % | – | 1 | 448 |"


def test_only_tables_that_compare_rows_are_shown(root: Path, tmp_path: Path) -> None:
    for name in ("params.yaml", "profiles"):
        (tmp_path / name).symlink_to(root / name)
    assert readme.experiments(tmp_path) == []
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
        tables = readme.experiments(tmp_path)
        assert len(tables) == shown
    assert (
        "| FixMatch | 10% | 55.0 % | 7.1 | 2 | – | – |\n| EMA-Teacher | 10% | 71.0 % | 1.4 | 2 | +16.0 (" in tables[0]
    )


def test_a_step_that_was_not_run_is_a_dash(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    model = {"last": {"accuracy": 0.5, "mean_recall": 0.25}}
    models = {"teacher": model, "facemix": model}
    evaluate = {"classes": ["a", "b"], "models": models, "headline": model["last"]}
    for stage, content in {"evaluate": evaluate, "split": {"labeled": 1000, "valid": 8}}.items():
        (folder / f"{stage}.json").write_text(json.dumps({stage: content}))
    row = readme.summary(tmp_path).splitlines()[2]
    assert row == "| Rendered faces (`make repro`): 2 classes, 1,008 labels | – | – | 50.0 % | 50.0 % | 25.0 % |"


def test_fine_tuning_without_pretraining_is_from_scratch(tmp_path: Path) -> None:
    models = {"plain": {"last": {}}, "teacher": {"last": {}}}
    for epochs, first in ((0, "scratch"), (24, "plain")):
        (tmp_path / "pretrain.json").write_text(json.dumps({"pretrain": {"epochs": epochs}}))
        assert set(readme.tested({"models": models}, tmp_path)) == {first, "teacher"}


def test_the_shipped_models_figures_are_those_of_its_run(root: Path) -> None:
    headline = read_metrics("evaluate", root / "metrics/profiles/ferplus-full")["headline"]
    text = " ".join((root / "README.md").read_text().split())
    assert f"its accuracy is {100 * headline['accuracy']:.1f} %" in text
    assert f"its mean recall {100 * headline['mean_recall']:.1f} %" in text
    records = [json.loads(p.read_text()) for p in (root / "metrics/experiments/ferplus-full").iterdir()]
    shipped = hashlib.md5((root / "models/ferplus-small.safetensors").read_bytes(), usedforsecurity=False).hexdigest()
    (record,) = (r for r in records if r["outputs"]["data/weights/model.safetensors"] == shipped)  # DVC's hash
    assert record["metrics"]["evaluate"]["headline"]["accuracy"] == headline["accuracy"]


def test_it_is_one_screen(root: Path) -> None:
    lines = (root / "README.md").read_text().splitlines()
    assert lines.index("```") < 30 and len(lines) < 80
