"""FixMatch: the student's own confident predictions label the unlabelled faces (Sohn et al. 2020; SSFER, Table 12)."""

from pydantic import Field

from ssfer.core.settings import Share, Weight
from ssfer.methods.shared.self_training import SelfTraining
from ssfer.methods.shared.settings import PseudoLabelSettings


class FixMatch(SelfTraining):
    """The student labels the weak view and learns its confident classes on the strong view."""

    class Settings(PseudoLabelSettings):
        """Section methods.fixmatch of params.yaml."""

        threshold: Share = Field(0.7, description="Confidence a pseudo-label needs.")
        lambda_u: Weight = Field(5.0, description="Weight of the unlabeled loss.")

    settings: Settings
    title, paper = "FixMatch", "Sohn et al. 2020"
