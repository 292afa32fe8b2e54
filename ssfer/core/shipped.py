"""Files of the project that come with the package: its pipeline, settings and profiles."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped(name: str) -> Path:
    """Return a file or folder that comes with the package: in the wheel, or in the checkout that holds the package.

    Args:
        name: relative to the project's folder, such as "params.yaml" or "profiles".
    """
    packed = _PACKAGE / "shipped" / name
    return packed if packed.exists() else _PACKAGE.parent / name
