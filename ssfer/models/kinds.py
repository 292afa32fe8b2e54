"""Networks that are more than a plain classifier: what their weights files call them, and how they are built again.

Such a module has a class attribute `kind`, a method `settings()` with JSON-able values, a class method
`build(body, settings)` that puts it around a classifier, ready to load weights, and that classifier as `body`. It takes
images and returns logits, so whatever evaluates or explains a classifier takes it as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from torch import nn

from ssfer.models.fused import FusedClassifier


class Kind(Protocol):
    """A class of such modules."""

    kind: str

    def build(self, body: nn.Module, settings: Mapping[str, Any]) -> nn.Module:
        """Return an empty one around `body`."""


KINDS: Mapping[str, Kind] = {FusedClassifier.kind: cast(Kind, FusedClassifier)}
CLASSIFIERS = ("classifier", *KINDS)  # kinds of weights that name the class of a face


def described(network: nn.Module) -> tuple[str, dict[str, Any]]:
    """Return (kind, settings) of a module of `KINDS`.

    Raises:
        TypeError: of no kind known here, so nobody could load it.
    """
    kind = str(getattr(network, "kind", None))
    if kind not in KINDS:
        raise TypeError(f"a {type(network).__name__} is of no kind that weights files know: {', '.join(KINDS)}")
    settings: dict[str, Any] = cast(Any, network).settings()
    return kind, settings


def rebuilt(kind: str, body: nn.Module, settings: Mapping[str, Any]) -> nn.Module:
    """Return an empty module of this kind around `body`."""
    return KINDS[kind].build(body, settings)


def body_of(network: nn.Module) -> nn.Module:
    """Return the classifier of timm's inside a module of `KINDS`; any other module is one itself."""
    return cast(nn.Module, network.body) if getattr(network, "kind", None) in KINDS else network
