"""FlexMatch: FixMatch with a lower threshold for classes that are learned more slowly (Zhang et al. 2021)."""

from __future__ import annotations

from torch import nn

from ssfer.config.methods import PseudoLabelParams
from ssfer.methods.fixmatch import FixMatch
from ssfer.methods.shared.imbalance import Imbalance, Population, always


class FlexMatch(FixMatch):
    """FixMatch with `ssfer.methods.shared.imbalance.curriculum_thresholds` (sections 3.1 to 3.3: warm-up, convex map), always on.

    Decision: predictions enter the thresholds from the next step on, not within it, so that they do not depend on how
    a batch is cut.
    """

    def __init__(
        self,
        student: nn.Module,
        params: PseudoLabelParams,
        imbalance: Imbalance | None = None,
        population: Population | None = None,
    ) -> None:
        super().__init__(student, params, always(imbalance, population, "class_thresholds"), population)
