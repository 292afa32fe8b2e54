"""Optional packages."""

from __future__ import annotations

import importlib.util

from ssfer.core.errors import SsferError

DEVELOPMENT = ("dev", "docs", "cluster")  # of a checkout `make setup-dev` installs these, `make setup` the others


def need(module: str, extra: str, purpose: str) -> None:
    """Check that an optional package is installed.

    Args:
        module: name under which the package is imported.
        extra: the extra of pyproject.toml that installs it.
        purpose: what needs it; the message begins with this.

    Raises:
        SsferError: the package is missing; names the package and the extra.
    """
    if importlib.util.find_spec(module) is None:
        target = "setup-dev" if extra in DEVELOPMENT else "setup"
        raise SsferError(
            f"{purpose} needs the package {module} (extra '{extra}'), which is not installed; install it with make "
            f"{target}, or pip install 'ssfer[{extra}]'"
        )
