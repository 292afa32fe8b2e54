"""YAML as DVC reads it (YAML 1.2, where 1e-3 is a number), and nested settings as dotted names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from ssfer.core.errors import SsferError


class _Representer(RoundTripRepresenter):
    """Write `null` as a word, as params.yaml does."""


_Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))


def round_trip() -> YAML:
    """Return a reader and writer that keeps comments, quotes and number formats."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def parse_yaml(text: str, origin: str, keep_comments: bool = False) -> Any:
    """Return the value that a text describes.

    Args:
        text: YAML 1.2.
        origin: where it comes from, for the error.
        keep_comments: return what `round_trip` can write again as it was.

    Raises:
        SsferError: invalid YAML.
    """
    try:
        return (round_trip() if keep_comments else YAML(typ="safe", pure=True)).load(text)
    except YAMLError as error:
        raise SsferError(f"{origin} is not valid YAML: {str(error).splitlines()[0]}") from error


def read_yaml(path: Path, keep_comments: bool = False) -> Any:
    """Return the content of a file; see `parse_yaml`.

    Raises:
        SsferError: the file is missing or is not valid YAML.
    """
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        raise SsferError(f"{path} is missing; run this in the project's root folder") from error
    return parse_yaml(text, str(path), keep_comments)


def mappings(value: Any) -> Mapping[Any, Any] | None:
    """Expand mappings only: lists are values."""
    return value if isinstance(value, Mapping) else None


def flatten(
    value: Any, expand: Callable[[Any], Mapping[Any, Any] | None] = mappings, name: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, leaf) of nested values.

    Args:
        value: nested mappings.
        expand: returns what is inside a value by key, or None for a leaf.
        name: of the value itself.
    """
    inner = expand(value)
    if inner is None:
        yield name, value
        return
    for key, item in inner.items():
        yield from flatten(item, expand, f"{name}.{key}" if name else str(key))
