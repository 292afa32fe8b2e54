"""The kinds of labeled data sets through the registry: options arrive, numbers are checked, paths are recognized."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.datasets.rafdb import PUBLISHED, RAFDB_CODES
from ssfer.datasets.registry import SOURCES, open_source, recognition_order
from tests.support.source_files import entry, write_zip


def complete_rafdb(missing: int = 0) -> dict[str, bytes]:
    """All 15,339 images, one byte each, with labels in the published numbers; without the last test images."""
    codes = {name: code for code, name in RAFDB_CODES.items()}
    lines = []
    for usage, digits in (("train", 5), ("test", 4)):
        labels = [codes[name] for name, n in PUBLISHED[usage].items() for _ in range(n)]
        lines += [f"{usage}_{i:0{digits}}.jpg {code}" for i, code in enumerate(labels, start=1)]
    lines = lines[: len(lines) - missing]
    files = {f"basic/Image/aligned/{line.split('.')[0]}_aligned.jpg": b"x" for line in lines}
    return files | {"basic/EmoLabel/list_patition_label.txt": "\n".join(lines).encode()}


def test_a_complete_rafdb_passes_and_an_incomplete_one_gets_a_table(tmp_path: Path) -> None:
    params = entry("rafdb", "r.zip")
    write_zip(tmp_path / "r.zip", complete_rafdb())
    assert len(open_source(params, tmp_path).records()) == 15_339
    write_zip(tmp_path / "r.zip", complete_rafdb(missing=2))
    with pytest.raises(SsferError, match=r"(?s)RAF-DB basic, aligned images, but.*test +neutral +680 +678 +-2"):
        open_source(params, tmp_path)
    with pytest.raises(SsferError, match="expected RAF-DB's images in .*original"):
        open_source(params.model_copy(update={"images": "original"}), tmp_path)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["basic/EmoLabel/list_patition_label.txt", "basic/Image/aligned/train_00001_aligned.jpg"], "rafdb"),
        (["DATASET/train/1/train_00002_aligned.jpg"], "rafdb"),
        (["Manually_Annotated_Images/1/a.jpg", "training.csv", "validation.csv"], "affectnet"),
        (["train_set/annotations/0_exp.npy", "train_set/images/0.jpg"], "affectnet"),
        (["FER2013Train.zip"], "ferplus"),
        (["fer2013.csv", "fer2013new.csv"], "ferplus"),
        (["Train/Angry/a.png", "Val/Angry/b.png"], "sfew"),
        (["train/anger/a.jpg"], "class_folders"),
        (["train/0/a.jpg", "test/1/b.jpg"], "class_folders"),
        (["Ann/Ann_0001.jpg"], "identities"),
    ],
)
def test_a_path_is_taken_for_the_right_kind(names: list[str], kind: str) -> None:
    assert next(name for name in recognition_order() if SOURCES[name].recognize(names)) == kind
