"""Labels that are no class of the run are refused before work; those of other benchmarks are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.datasets.labels import check_labels
from tests.support.source_files import entry, write_files

FILES = dict.fromkeys(("happy/a.jpg", "contempt/b.jpg", "hapy/c.jpg", "hapy/d.jpg"), b"")


def test_unknown_label_is_named_with_the_nearest_class(tmp_path: Path) -> None:
    write_files(tmp_path / "set", FILES)
    sentence = r"source 'set' has labels .*: 'hapy' \(2 images\); .*did you mean 'happy'.*data.classes: auto"
    with pytest.raises(SsferError, match=sentence):
        check_labels([entry("class_folders")], tmp_path, ["happiness", "anger"])


@pytest.mark.parametrize("classes", [None, ["hapy", "happiness"]])
def test_labels_of_the_run_and_of_benchmarks_pass(tmp_path: Path, classes: list[str] | None) -> None:
    write_files(tmp_path / "set", FILES)
    check_labels([entry("class_folders")], tmp_path, classes)
