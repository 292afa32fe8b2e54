"""Optional packages."""

from __future__ import annotations

import importlib.util

from ssfer.core.errors import SsferError


def need(module: str, extra: str, purpose: str) -> None:
    """Refuse to go on without an optional package.

    Args:
        module: its name when imported.
        extra: of pyproject.toml, which brings it.
        purpose: begins the message.

    Raises:
        SsferError: names the package and the extra.
    """
    if importlib.util.find_spec(module) is None:
        raise SsferError(
            f"{purpose} needs the package {module} (extra '{extra}'), which is not installed; install it with make "
            f"setup, or pip install 'ssfer[{extra}]'"
        )
