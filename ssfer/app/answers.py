"""The server's responses as types; FastAPI makes the OpenAPI description from them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

NOTICE = (
    "Research use. This page shows the apparent expression of a face, not what a person feels. Do not use it for "
    "decisions about people, nor at work or in education, where EU law prohibits inferring emotions."
)
Number = Annotated[float, Field(ge=0, le=1)]


class FaceAnswer(BaseModel):
    """One face."""

    box: Annotated[list[float], Field(description="x1, y1, x2, y2 in pixels of the upright picture.")]
    score: Annotated[float | None, Field(description="Score of the detector, 0..1.")]
    expression: Annotated[str | None, Field(description="The predicted class; null if the model abstains.")]
    confidence: Annotated[Number, Field(description="Calibrated probability of the most probable class.")]
    probabilities: Annotated[dict[str, float], Field(description="Calibrated probability of every class.")]
    overlay: Annotated[
        str | None, Field(description="With explain=true: the crop with its Grad-CAM map, a JPEG as data URI.")
    ] = None


class Answer(BaseModel):
    """All faces of a picture."""

    status: Annotated[str, Field(description="ok, or no_face.")]
    width: Annotated[int, Field(description="Width of the upright picture in pixels.")]
    height: int
    faces: list[FaceAnswer]
    seconds: Annotated[float, Field(description="Seconds spent on this picture, without waiting.")]


class ModelAnswer(BaseModel):
    """The model, and the limits of requests."""

    model: Annotated[str, Field(description="Name of the weights file.")]
    classes: list[str]
    runtime: str
    explains: Annotated[bool, Field(description="Whether explain=true is possible.")]
    notice: str
    max_bytes: int
    max_pixels: int
    content_types: list[str]


class Problem(BaseModel):
    """The response to a request that failed."""

    error: Annotated[str, Field(description="One sentence: what is wrong, what was expected, what to do.")]
