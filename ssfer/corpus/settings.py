"""Section `corpus` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ssfer.core.settings import NonNegative, Positive, Section, Share


class CorpusSettings(Section):
    """Selection of the unlabeled corpus."""

    seed: NonNegative = Field(2024, description="Seed of the shuffle and of what is drawn.")
    min_score: Share = Field(0.8, description="Detector confidence needed to enter the corpus.")
    min_side: NonNegative = Field(24, description="Shorter side of the face box in the source photo.")
    flagged: Literal["keep", "drop"] = Field(
        "keep", description="Faces with doubtful landmarks (landmark_flag of the manifest): keep | drop."
    )
    keep_undetected: bool = Field(
        False, description="Keep images without a detected face (true for data sets that ship crops)."
    )
    near_duplicate_bits: Annotated[int, Field(ge=0, le=16)] = Field(
        8, description="Hamming distance of 64-bit perceptual hashes that makes a candidate pair."
    )
    near_duplicate_correlation: Share = Field(
        0.85, description="Correlation of the two registered crops, and of their details, that confirms it."
    )
    max_images: Positive | None = Field(
        None, description="Cap after shuffling; null: all. Sources have their own caps: corpus_max(_per_identity)."
    )
    examples: NonNegative = Field(
        0, description="Pictures per reason on the page about excluded images (they may be licensed); 0: none."
    )
