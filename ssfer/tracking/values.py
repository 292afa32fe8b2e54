"""Convert values to the form that MLflow gets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from ssfer.core.yaml import mappings


def with_lists(value: Any) -> Mapping[Any, Any] | None:
    """Expand mappings by key and lists by index."""
    return dict(enumerate(value)) if isinstance(value, list | tuple) else mappings(value)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def public_text(value: Any) -> str:
    """Return a parameter as text; of an absolute path only its last part, because folders may contain user names."""
    if not isinstance(value, str):
        return json.dumps(value)
    for flavour in (PurePosixPath(value), PureWindowsPath(value)):
        if flavour.is_absolute() or value.startswith("~"):
            return flavour.name or "/"
    return value
