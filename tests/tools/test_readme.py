"""README.md: one screen, and its numbers are those of metrics/."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import subprocess
import zipfile
from pathlib import Path

from ssfer.formats.metrics import read_metrics
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
    assert FOUND in text and FOUND in (root / "docs/results/results.md").read_text()
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
