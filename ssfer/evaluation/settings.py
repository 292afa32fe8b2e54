"""Sections of params.yaml about evaluation and attacks of trained models."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ssfer.core.settings import Positive, Section, Share, Text

ModelName = Literal["auto", "scratch", "plain", "mixup", "facemix", "student", "teacher", "average"]


class EvaluateSettings(Section):
    """The test."""

    headline: Literal["auto", "teacher", "student", "average"] = Field(
        "auto",
        description="Network whose accuracy is the result: teacher | student | average (semisup.average); "
        "auto: the one that the method evaluates.",
    )
    metrics: tuple[Text, ...] = Field((), description="Your own metrics, as ./file.py:Name.")


class RobustnessSettings(Section):
    """FGSM on the pixels a model focuses on, on the others and at random (SSFER table 7)."""

    models: Annotated[tuple[ModelName, ...], Field(min_length=1)] = Field(
        ("auto",),
        description="scratch | plain | mixup | facemix | student | teacher | average; auto: teacher, else student.",
    )
    epsilons: Annotated[tuple[Share, ...], Field(min_length=1)] = Field(
        (0, 0.02, 0.04, 0.06, 0.08, 0.1), description="Steps of the attack; the first is 0, the clean accuracy."
    )
    space: Literal["pixel", "normalized"] = Field(
        "pixel", description="Unit of epsilon; pixel: of pixels in 0..1 | normalized: times model.std (paper: unknown)."
    )
    cam_threshold: Share = Field(0.3, description="A model focuses on the pixels whose Grad-CAM is above this.")
    images: Positive | None = Field(None, description="Most test images, evenly spaced over the test part; null: all.")

    @model_validator(mode="after")
    def _check(self) -> RobustnessSettings:
        if self.epsilons[0] != 0 or any(a >= b for a, b in pairwise(self.epsilons)):
            raise ValueError(f"epsilons must begin with 0 (the clean accuracy) and grow, found {list(self.epsilons)}")
        return self
