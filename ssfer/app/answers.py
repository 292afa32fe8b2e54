"""What the server answers, as types: the OpenAPI description is made from them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

NOTICE = (
    "Research use. Shown is the apparent expression of a face, not what a person feels. Not for decisions about "
    "people, and not for use at work or in education, where EU law prohibits inferring emotions."
)
Number = Annotated[float, Field(ge=0, le=1)]


class FaceAnswer(BaseModel):
    """One face."""

    box: Annotated[list[float], Field(description="x1, y1, x2, y2 in pixels of the upright picture.")]
    score: Annotated[float | None, Field(description="Of the detector, 0..1.")]
    expression: Annotated[str | None, Field(description="The class; null where the model abstains.")]
    confidence: Annotated[Number, Field(description="Calibrated probability of the most probable class.")]
    probabilities: Annotated[dict[str, float], Field(description="Calibrated probability of every class.")]
    overlay: Annotated[
        str | None, Field(description="With explain=true: the crop under its Grad-CAM map, a JPEG as data: address.")
    ] = None


class Answer(BaseModel):
    """All faces of a picture."""

    status: Annotated[str, Field(description="ok, or no_face.")]
    width: Annotated[int, Field(description="Of the upright picture, in pixels.")]
    height: int
    faces: list[FaceAnswer]
    seconds: Annotated[float, Field(description="Spent on this picture, waiting not included.")]


class ModelAnswer(BaseModel):
    """What answers."""

    model: Annotated[str, Field(description="Name of the weights file.")]
    classes: list[str]
    runtime: str
    explains: Annotated[bool, Field(description="Whether explain=true is possible.")]
    notice: str
    max_bytes: int
    max_pixels: int
    content_types: list[str]


class Problem(BaseModel):
    """Every answer but 200."""

    error: Annotated[str, Field(description="One sentence: what is wrong, what was expected, what to do.")]
