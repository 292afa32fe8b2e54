"""FlexMatch: FixMatch with a lower threshold for classes that are learned more slowly (Zhang et al. 2021)."""

from typing import ClassVar

from pydantic import Field

from ssfer.core.settings import Share, Weight
from ssfer.methods.shared.self_training import SelfTraining
from ssfer.methods.shared.settings import PseudoLabelSettings


class FlexMatch(SelfTraining):
    """FixMatch with curriculum thresholds always on (sections 3.1 to 3.3: warm-up, convex map).

    The thresholds are `ssfer.methods.shared.imbalance.curriculum_thresholds`. An image whose newest prediction is below
    the cut-off keeps its last class above it, as in the authors' code (`semisup.imbalance.forget_unsure`). Also as
    there, predictions enter the thresholds from the next step on; so they do not depend on how a batch is cut.
    """

    class Settings(PseudoLabelSettings):
        """Section methods.flexmatch of params.yaml."""

        threshold: Share = Field(0.95, description="The highest of the classes' thresholds.")
        lambda_u: Weight = Field(1.0, description="Weight of the unlabeled loss.")

    settings: Settings
    title, paper = "FlexMatch", "Zhang et al. 2021"
    always: ClassVar[tuple[str, ...]] = ("class_thresholds",)
