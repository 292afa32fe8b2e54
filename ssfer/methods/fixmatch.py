"""FixMatch: the student's own confident predictions are the pseudo-labels (Sohn et al. 2020; SSFER, Table 12)."""

from pydantic import Field

from ssfer.core.settings import Share, Weight
from ssfer.methods.shared.self_training import SelfTraining
from ssfer.methods.shared.settings import PseudoLabelSettings


class FixMatch(SelfTraining):
    """The student's confident classes on the weak view are its targets on the strong view."""

    class Settings(PseudoLabelSettings):
        """Section methods.fixmatch of params.yaml."""

        threshold: Share = Field(0.7, description="Confidence a pseudo-label needs.")
        lambda_u: Weight = Field(5.0, description="Weight of the unlabeled loss.")

    settings: Settings
    title, paper = "FixMatch", "Sohn et al. 2020"
