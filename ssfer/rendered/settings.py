"""Section `generate` of params.yaml."""

from typing import Annotated

from pydantic import Field

from ssfer.core.settings import NonNegative, Positive, Section

SYNTHETIC = "synthetic"  # folder of data/raw that stage generate writes


class GenerateSettings(Section):
    """The demo's rendered faces."""

    seed: NonNegative = Field(2024, description="Seed of all that is drawn.")
    size: Annotated[int, Field(ge=32, le=2048)] = Field(96, description="Side of a rendered photo.")
    train: NonNegative = Field(6000, description="Labeled-source training faces, over 7 expressions.")
    test: NonNegative = Field(1050, description="Test faces, other identities.")
    people: NonNegative = Field(2000, description="Unlabeled faces.")
    people_identities: Positive = Field(700, description="Identities among them.")
    troubles: bool = Field(True, description="Add damaged files, duplicates, photos with two heads or none.")
