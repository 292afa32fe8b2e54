"""ssfer.core.yaml: YAML 1.2, one sentence for what is wrong, dotted names."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.core.yaml import flatten, mappings, parse_yaml, read_yaml


def test_numbers_are_those_of_yaml_1_2() -> None:
    assert parse_yaml("a: 1e-3\nb: yes\nc: null\n", "text") == {"a": 0.001, "b": "yes", "c": None}


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
