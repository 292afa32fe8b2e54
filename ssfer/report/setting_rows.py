"""Settings as rows of a page's table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from ssfer.core.yaml import flatten, mappings


def setting_rows(tree: Any) -> dict[str, str]:
    """Return dotted key -> value as params.yaml would show it."""
    return {key: _text(leaf) for key, leaf in flatten(tree, _named_items)}


def breakable(key: str) -> Markup:
    """Return a key that a browser may break after dots and underscores."""
    return Markup("<wbr>").join(re.split(r"(?<=[._])", key))


def _named_items(value: Any) -> Mapping[Any, Any] | None:
    """Expand mappings by key and lists of mappings by name; short lists of values stay together."""
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return {item.get("name", index): item for index, item in enumerate(value)}
    return mappings(value)


def _text(value: Any) -> str:
    """Return a setting as params.yaml would show it: null, true, 0.00001."""
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "[]"
    if isinstance(value, float):
        return np.format_float_positional(value, trim="-")
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
