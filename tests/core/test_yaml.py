"""ssfer.core.yaml: YAML 1.2, one sentence for what is wrong, dotted names."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ssfer.core.errors import SsferError
from ssfer.core.yaml import flatten, mappings, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E5", 1e5), ("-2.5e+3", -2500.0), (".5", 0.5), ("1.", 1.0), ("0.00001", 1e-5),
        ("-.inf", -math.inf), ("7", 7), ("+7", 7), ("012", 12), ("0o17", 15), ("0x1F", 31), ("1_000", "1_000"),
        ("12:30", "12:30"), ("1e", "1e"), ("yes", "yes"), ("on", "on"), ("true", True), ("False", False),
        ("null", None), ("~", None), ("", None), ("2026-11-28", "2026-11-28"), ('"1e-4"', "1e-4"), ("0b1", "0b1"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    (found,) = parse_yaml(f"a: {text}\n", "text").values()
    assert (type(found), found) == (type(value), value)


def test_files_of_the_project_read_as_dvc_reads_them(root: Path) -> None:
    files = [*root.glob("*.yaml"), *root.glob("profiles/*.yaml"), *root.glob("ssfer/**/*.yaml")]
    assert len(files) > 15
    for path in files:
        assert read_yaml(path) == YAML(typ="safe", pure=True).load(path.read_text()), path


def test_merge_keys_and_nested_lists() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [[1, 2], {d: [3]}]\n"
    assert parse_yaml(text, "text") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [[1, 2], {"d": [3]}]}


BROKEN = ["a: 1\na: 2\n", "a: {b: 1, b: 1}\n", "a: [\n", "a: b: c\n"]


@pytest.mark.parametrize(
    ("text", "keep_comments"), [*product(BROKEN, [False, True]), ("a: !!python/object:os.x {}\n", False)]
)
def test_doubled_keys_and_broken_text_are_refused(text: str, keep_comments: bool) -> None:
    with pytest.raises(SsferError, match="^text is not valid YAML: "):
        parse_yaml(text, "text", keep_comments)


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match=r"params.yaml is missing; run this in the project's root folder$"):
        read_yaml(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("split: [\n")
    with pytest.raises(SsferError, match="params.yaml is not valid YAML: "):
        read_yaml(tmp_path / "params.yaml", keep_comments=True)


def test_nested_names_are_joined_by_dots() -> None:
    value = {"a": {"b": [1, 2], "c": {}}, "d": 3}
    assert dict(flatten(value)) == {"a.b": [1, 2], "d": 3}
    items = dict(flatten([{"a": 1}, 2], lambda v: dict(enumerate(v)) if isinstance(v, list) else mappings(v)))
    assert items == {"0.a": 1, "1": 2}


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_text_in_another_encoding_is_one_sentence(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "params.yaml").write_bytes("title: Größe\n".encode(encoding))
    with pytest.raises(SsferError, match=r"params\.yaml is not UTF-8 text; save it as UTF-8"):
        read_yaml(tmp_path / "params.yaml")
