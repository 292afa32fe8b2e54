"""README.md: its numbers are those of metrics/, its commands and files exist."""

from __future__ import annotations

import io
import re
import subprocess
import zipfile
from pathlib import Path

from tools import readme


def test_results_are_those_of_metrics(root: Path, tmp_path: Path) -> None:
    """Of the committed metrics, or of those in the working tree: a run on another machine may give other numbers."""
    text = (root / "README.md").read_text()
    known = [readme.results(root)]
    command = ["git", "-C", str(root), "archive", "--format=zip", "HEAD", "metrics"]
    archive = subprocess.run(command, capture_output=True)
    if archive.returncode == 0:
        with zipfile.ZipFile(io.BytesIO(archive.stdout)) as file:
            file.extractall(tmp_path)
        known.append(readme.results(tmp_path))
    assert text in [readme.insert(text, results) for results in known], "run `make table`"


def test_table_row_shows_the_numbers_of_its_model() -> None:
    last = {"accuracy": 0.5, "accuracy_ci95": [0.4, 0.6], "mean_recall": 0.25, "macro_f1": 0.125, "ece": 0.0625}
    row = readme._row("x", {"last": last, "best": {**last, "accuracy": 0.75}})
    assert row == "| x | 50.0 % (40.0–60.0) | 75.0 % | 25.0 % | 12.5 % | 0.062 |"
    assert "| – |" in readme._row("x", {"last": last})


def test_files_and_options_it_names_exist(root: Path) -> None:
    text = (root / "README.md").read_text()
    for path in re.findall(r"`((?:ssfer|stages|profiles|tests|tools)/[\w/.-]+)`", text):
        assert (root / path).exists(), path
    params = (root / "params.yaml").read_text()
    for section, key in re.findall(r"`(pretrain|finetune|semisup|split|model|evaluate)\.(?:\w+\.)?(\w+)", text):
        assert re.search(rf"^{section}:", params, re.M) and re.search(rf"^ +{key}:", params, re.M), f"{section}.{key}"


def test_make_targets_it_names_exist(root: Path) -> None:
    makefile = (root / "Makefile").read_text()
    for target in set(re.findall(r"`?make ([a-z][a-z-]+)", (root / "README.md").read_text())):
        assert re.search(rf"^{target}:", makefile, re.M), target
