"""The params sections of what is measured on finished models; see `ssfer.config.schema`."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ssfer.config.sources import Positive, Section
from ssfer.config.training import Share

ModelName = Literal["auto", "scratch", "plain", "mixup", "facemix", "student", "teacher"]


class RobustnessParams(Section):
    models: Annotated[tuple[ModelName, ...], Field(min_length=1)]
    epsilons: Annotated[tuple[Share, ...], Field(min_length=1)]
    space: Literal["pixel", "normalized"]
    cam_threshold: Share
    images: Positive | None

    @model_validator(mode="after")
    def _check(self) -> RobustnessParams:
        if self.epsilons[0] != 0 or any(a >= b for a, b in pairwise(self.epsilons)):
            raise ValueError(f"epsilons must begin with 0 (the clean accuracy) and grow, found {list(self.epsilons)}")
        return self
