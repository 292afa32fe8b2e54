"""README.md: its numbers are those of metrics/, its commands and files exist."""

from __future__ import annotations

import re
from pathlib import Path

from tools import readme


def test_results_are_those_of_the_committed_metrics(root: Path) -> None:
    text = (root / "README.md").read_text()
    assert readme.insert(text, readme.results(root)) == text, "run `make table`"


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
