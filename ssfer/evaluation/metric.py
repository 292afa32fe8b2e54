"""Metrics of the user's own, named in params `evaluate.metrics`; ssfer's are in `ssfer.evaluation.metrics`."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssfer.core.errors import SsferError
from ssfer.core.registry import Registry, section_name
from ssfer.core.settings import Section
from ssfer.evaluation.metrics import DIGITS, Floats, Ints


class Metric(ABC):
    """A metric of a classifier: one class in a file of the user's own, or in an installed package."""

    class Settings(Section):
        """Section `metrics.<name of the file>` of params.yaml."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @abstractmethod
    def __call__(self, probs: Floats, labels: Ints, classes: Sequence[str]) -> float:
        """Return the metric; NaN if it is not defined.

        Args:
            probs: (N, K) class probabilities, rows sum to 1.
            labels: (N,) true classes, 0..K-1.
            classes: the K names.
        """


METRICS: Registry[Metric] = Registry("metric", "ssfer.evaluation", Metric, "ssfer.metrics")  # type: ignore[type-abstract]


def own_metrics(
    names: Sequence[str],
    sections: Mapping[str, Section],
    probs: Floats,
    labels: Ints,
    classes: Sequence[str],
    taken: Mapping[str, Any],
) -> dict[str, float | None]:
    """Return {name of the metric's file or module: number, None for NaN}.

    Args:
        names: the metrics.
        sections: section `metrics` of params.yaml.
        probs: see `Metric.__call__`, as the next two.
        labels: see there.
        classes: see there.
        taken: names that other numbers have.

    Raises:
        SsferError: unknown metric, a name that is `taken` by another number, or no number.
    """
    found: dict[str, float | None] = {}
    for name in names:
        metric, key = METRICS[name], section_name(name)
        if key in taken or key in found:
            raise SsferError(
                f"evaluate.metrics has '{name}', but there is a number called {key} already; rename its file"
            )
        value: Any = metric(METRICS.settings(name, sections))(probs, labels, classes)
        if isinstance(value, str | complex | np.complexfloating) or np.ndim(value):
            raise SsferError(f"metric '{name}' must return a number, found {value!r:.80}")
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise SsferError(f"metric '{name}' must return a number, found {value!r:.80}") from error
        found[key] = round(number, DIGITS) if math.isfinite(number) else None
    return found
