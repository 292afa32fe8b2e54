"""The importer for <usage>/<class name>/<photo>: names decide, mistakes are named."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest

from ssfer.errors import SsferError
from ssfer.labels import EXPRESSIONS
from ssfer.params import SourceParams
from ssfer.sources.base import open_source
from ssfer.sources.class_folders import ClassFolderSource

FILES = {
    "train/anger/b.jpg": b"one",
    "train/anger/a.JPG": b"two",
    "train/Happiness/deep/er/c.png": b"three",
    "valid/fear/d.jpg": b"four",
    "Test/NEUTRAL/a.jpg": b"five",
    "train/anger/notes.txt": b"no photo",
}
EXPECTED = [  # in sorted order of names
    ("Test/NEUTRAL/a.jpg", "neutral", "test", b"five"),
    ("train/Happiness/deep/er/c.png", "happiness", "train", b"three"),
    ("train/anger/a.JPG", "anger", "train", b"two"),
    ("train/anger/b.jpg", "anger", "train", b"one"),
    ("valid/fear/d.jpg", "fear", "valid", b"four"),
]


def write(root: Path, names: dict[str, bytes], kind: str = "folder", prefix: str = "") -> Path:
    if kind == "folder":
        for name, data in names.items():
            path = root / "set" / prefix / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return root / "set"
    with zipfile.ZipFile(root / "set.zip", "w") as archive:
        for name, data in names.items():
            archive.writestr(prefix + name, data)
    return root / "set.zip"


@pytest.mark.parametrize("prefix", ["", "rafdb/"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_folder_names_become_labels_and_usages(tmp_path: Path, kind: str, prefix: str) -> None:
    source = ClassFolderSource(write(tmp_path, FILES, kind, prefix))
    found = [(r.path, r.label, r.usage, source.read(r)) for r in source.records()]
    assert found == [(prefix + path, *rest) for path, *rest in EXPECTED]
    assert source.dropped["not_an_image"] == 1


def test_every_expression_is_a_class_name(tmp_path: Path) -> None:
    source = ClassFolderSource(write(tmp_path, {f"train/{name}/0.jpg": b"x" for name in EXPRESSIONS}))
    assert {r.label for r in source.records()} == set(EXPRESSIONS)


def test_stamp_changes_with_the_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, FILES)
    source = ClassFolderSource(path)
    record = source.records()[2]
    before = source.stamp(record)
    (path / record.path).write_bytes(b"another size")
    assert source.stamp(record) != before


def test_a_worker_process_gets_the_same_source(tmp_path: Path) -> None:
    source = ClassFolderSource(write(tmp_path, FILES, "zip"))
    copy = pickle.loads(pickle.dumps(source))
    assert copy.records() == source.records()
    assert copy.read(copy.records()[0]) == b"five"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/happy/a.jpg"], r"unknown class folder .*'happy'; did you mean 'happiness'"),
        (["train/4/a.jpg"], r"unknown class folder .*'4' \(known: anger, contempt"),
        (["train/anger/a.jpg", "trian/fear/a.jpg"], r"unknown usage folder .*'trian'; did you mean 'train'"),
        (["train/anger/a.jpg", "train/b.jpg"], r"found 'train/b.jpg'; move or remove it"),
        (["a.jpg"], r"found 'a.jpg'; move or remove it"),
        (["test/anger/a.jpg"], r"found 1 photos and none there; arrange them as <train\|valid\|test>"),
        (["train/anger/a.txt"], r"found 0 photos and none there"),
    ],
)
def test_another_layout_is_refused_with_what_was_found(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(SsferError, match=message):
        ClassFolderSource(write(tmp_path, dict.fromkeys(names, b"x")))


def test_params_open_it(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    params = SourceParams(name="mine", kind="class_folders", path="set", labeled=True, align="resize")
    assert len(open_source(params, tmp_path).records()) == 5
