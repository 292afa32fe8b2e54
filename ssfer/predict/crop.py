"""Crop the faces of photos as a network's training faces were cropped; its weights file stores the recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, ValidationError

from ssfer.core import images
from ssfer.core.errors import SsferError
from ssfer.core.settings import Section, Share, Text
from ssfer.data.decode import decode_rgb
from ssfer.faces import alignment, border, turned
from ssfer.faces.detectors.base import Detection, Detector
from ssfer.faces.detectors.registry import DETECTORS
from ssfer.faces.settings import Border, Outside
from ssfer.faces.workers import one_thread

Faces = Literal["all", "largest", "whole"]
Point = tuple[float, float]
# The name of a crop's recipe, as `ssfer.faces.crops` writes it into the manifest.
_ALIGNED = re.compile(
    r"^(?P<detector>.+?)(-min(?P<min_face>[\d.]+))?(-border)?(?P<turned>-turned)?-similarity5-v2"
    r"(-(?P<outside>reflect|blur))?-(?P<size>\d+)$"
)
_RESIZED = re.compile(r"^resize-v1-(?P<size>\d+)$")


class CropRecipe(Section):
    """How a network's training crops were made; `crop` in the metadata of a weights file."""

    detector: Text = Field("mtcnn", description="As align.detector.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Of the detector.")
    border: Border = Field("edge", description="As align.border.")
    turned: bool = Field(False, description="As align.turned; for photos, not for videos.")
    min_face: Annotated[float, Field(ge=0.005, le=1)] | None = Field(None, description="As align.min_face.")
    min_score: Share = Field(0.5, description="As align.min_score.")
    outside: Outside = Field("black", description="As align.outside.")
    size: Annotated[int, Field(ge=16, le=4096)] = Field(description="As align.size.")
    quality: Annotated[int, Field(ge=1, le=100)] = Field(95, description="As align.quality.")
    points: tuple[Point, Point, Point, Point, Point] | None = Field(
        None,
        description="Positions of the five landmarks (x, y) as shares of the crop's side, if the training data were "
        "ready-made crops; null: those of the template.",
    )

    def template(self) -> np.ndarray:
        """Return the target positions of the landmarks (5, 2) in pixels of the crop."""
        if self.points is None:
            return alignment.template(self.size)
        return np.array(self.points) * self.size - 0.5

    def detecting(self, turned: bool | None, min_face: float | None) -> CropRecipe:
        """Return the recipe with other settings of detection; None: as it is.

        Raises:
            SsferError: `min_face` is out of range.
        """
        changed = {"turned": turned, "min_face": min_face}
        try:
            return CropRecipe(**(self.model_dump() | {key: v for key, v in changed.items() if v is not None}))
        except ValidationError as error:
            raise SsferError(
                f"expected a smallest face of 0.005 to 1 of the photo's longer side, found {min_face}"
            ) from error

    @property
    def name(self) -> str:
        """Return a description in one line."""
        where = "ready-made crops" if self.points else "aligned by five points"
        return f"{self.detector}, {where}, {self.size} px"


def unknown_recipe(path: Path, error: ValidationError) -> SsferError:
    """Return the error for weights whose crop recipe has keys or values that this version does not know."""
    return SsferError(
        f"{path} describes its crops in a way that is not known here: {error.errors()[0]['msg']}; "
        "update ssfer, or write the weights again with dvc repro evaluate"
    )


def recipe_of(meta: Mapping[str, Any], path: Path) -> CropRecipe:
    """Return the crop recipe in a weights file's metadata.

    Only stage evaluate writes the whole recipe. Other files have the names of the recipes; settings that are not in a
    name have their defaults.

    Raises:
        SsferError: the metadata have no crop recipe, or an unknown one.
    """
    if "crop" in meta:
        try:
            return CropRecipe.model_validate(meta["crop"])
        except ValidationError as error:
            raise unknown_recipe(path, error) from error
    names = str(meta.get("crop_recipe", "")).split("+")
    aligned = [found for name in names if (found := _ALIGNED.match(name))]
    if aligned:
        first = aligned[0]
        detector = first["detector"]
        known = next(
            (name for name in DETECTORS.own() if detector == name or detector.startswith(f"{name}-")), detector
        )
        return CropRecipe(
            detector=known,
            turned=any(found["turned"] for found in aligned),
            min_face=float(first["min_face"]) if first["min_face"] else None,
            outside=cast(Outside, first["outside"] or "black"),
            size=int(first["size"]),
        )
    resized = [found for name in names if (found := _RESIZED.match(name))]
    if resized:
        return CropRecipe(size=int(resized[0]["size"]))
    raise SsferError(
        f"{path} does not say how its faces were cropped (crop_recipe is '{meta.get('crop_recipe', '')}'); expected "
        "weights that stage finetune, semisup or evaluate wrote"
    )


@dataclass(frozen=True)
class Face:
    """One face of a picture.

    Attributes:
        box: (4,) float32, x1, y1, x2, y2 in pixels of the picture.
        landmarks: (5, 2) float32 in pixels of the picture; None: no detection ran.
        score: the detector's, 0..1; None: no detection ran.
        jpeg: the crop as stage align would store it.
    """

    box: np.ndarray
    landmarks: np.ndarray | None
    score: float | None
    jpeg: bytes

    def pixels(self) -> NDArray[np.uint8]:
        """Return the crop's pixels (size, size, 3), RGB, as training reads them."""
        return decode_rgb(self.jpeg)


class FaceFinder:
    """Find and crop the faces of pictures as stage align does, byte for byte.

    Detectors process pictures of the same size in batches. Rounding depends on the batch's length and can move a
    landmark by a ten-thousandth of a pixel, so only the same pictures in the same batches give the same bytes.
    """

    def __init__(self, recipe: CropRecipe, detector: Detector) -> None:
        self.recipe, self.detector = recipe, detector
        self._template = recipe.template()

    def find(self, pictures: Sequence[Image.Image], faces: Faces = "all", moving: bool = False) -> list[list[Face]]:
        """Return the faces of each upright RGB picture, best score first.

        Args:
            pictures: upright, RGB.
            faces: all; largest: the face with the largest box; whole: each picture is a face crop, no detection.
            moving: the pictures are frames of a video, which is upright; they are not rotated to find more faces.
        """
        if faces == "whole":
            return [[self._whole(picture)] for picture in pictures]

        def detect(some: Sequence[Image.Image]) -> list[Detection]:
            return border.detect(self.detector, some, self.recipe.border, self.recipe.min_score)

        with one_thread():
            found = turned.detect(detect, pictures)[0] if self.recipe.turned and not moving else detect(pictures)
            return [self._cropped(picture, one, faces) for picture, one in zip(pictures, found, strict=True)]

    def _cropped(self, picture: Image.Image, found: Detection, faces: Faces) -> list[Face]:
        cropped = []
        if faces == "largest":
            areas = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1)
            found = found.at(np.argsort(-areas, kind="stable"))
        for box, landmarks, score in zip(found.boxes, found.landmarks, found.scores, strict=True):
            try:
                matrix = alignment.estimate_similarity(landmarks, self._template)
            except ValueError:  # the five points are degenerate
                continue
            crop = alignment.warp(picture, matrix, self.recipe.size, self.recipe.outside)
            cropped.append(Face(box, landmarks, float(score), self._encoded(crop)))
            if faces == "largest":
                break
        return cropped

    def _whole(self, picture: Image.Image) -> Face:
        box = np.array([0, 0, picture.width, picture.height], np.float32)
        return Face(box, None, None, self._encoded(alignment.resize(picture, self.recipe.size)))

    def _encoded(self, crop: Image.Image) -> bytes:
        return images.encode_jpeg(crop, self.recipe.quality)
