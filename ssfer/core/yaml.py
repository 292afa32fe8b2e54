"""YAML as DVC reads it, and nested settings as dotted names.

Values are read with pyyaml, whose rules of YAML 1.1 are replaced by those of YAML 1.2 (10.3.2, core schema): 1e-4 is a
number, yes and 2026-11-28 are strings. Files that are written again go through ruamel.yaml, which keeps comments.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from ssfer.core.errors import SsferError

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is not in every build
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}


class _Loader(_SafeLoader):  # type: ignore[misc]
    """pyyaml's safe loader with the scalars of YAML 1.2; a key that occurs twice is an error."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - pyyaml's own, filled below

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", node.start_mark)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


for _tag, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_int)


class _Representer(RoundTripRepresenter):
    """Write `null` as a word, as params.yaml does."""


_Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))


def round_trip() -> YAML:
    """Return a reader and writer that keeps comments, quotes and number formats."""
    found = YAML()
    found.Representer = _Representer
    found.width = 4096
    found.indent(mapping=2, sequence=4, offset=2)
    return found


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
        return round_trip().load(text) if keep_comments else yaml.load(text, _Loader)
    except (YAMLError, yaml.YAMLError, ValueError) as error:
        raise SsferError(f"{origin} is not valid YAML: {str(error).splitlines()[0]}") from error


def read_yaml(path: Path, keep_comments: bool = False) -> Any:
    """Return the content of a file; see `parse_yaml`.

    Raises:
        SsferError: the file is missing or is not valid YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SsferError(f"{path} is missing; run this in the project's root folder") from error
    except UnicodeDecodeError as error:
        raise SsferError(f"{path} is not UTF-8 text; save it as UTF-8 in your editor") from error
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
