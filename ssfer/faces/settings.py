"""Section `align` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ssfer.core.settings import Positive, Section, Share, Text

Border = Literal["never", "edge", "always"]
Outside = Literal["black", "reflect", "blur"]
# Settings of `align` that a single crop depends on; they are stored in the files of trained models.
CROP_SETTINGS = ("detector", "border", "min_score", "outside", "size", "quality", "turned", "min_face")


class AlignSettings(Section):
    """Detection and alignment of faces."""

    detector: Text = Field(
        "mtcnn", description="mtcnn: weights in its package, no network needed | retinaface: `ssfer fetch` its weights."
    )
    border: Border = Field(
        "edge",
        description="Detect with a gray border around the photo: never | edge, again where a box meets the photo's "
        "edge | always.",
    )
    second_detector: Text | None = Field(
        None, description="Another detector to compare landmarks with; a face for which they differ is flagged."
    )
    outside: Outside = Field("black", description="What a crop shows where the photo ends: black | reflect | blur.")
    size: Annotated[int, Field(ge=16, le=2048)] = Field(64, description="Side of the stored crop (paper: 224).")
    quality: Annotated[int, Field(ge=1, le=100)] = Field(95, description="JPEG quality of the stored crop.")
    min_score: Share = Field(0.5, description="Detections with a lower confidence are ignored.")
    box_min_score: Share = Field(
        0.4, description="Second pass on the crop, whose box FaceMix uses (the release: 0.40)."
    )
    turned: bool = Field(
        True, description="Detect again at 90, 180 and 270 degrees if no face or only a doubtful one was found."
    )
    min_face: Annotated[float, Field(ge=0.005, le=1, allow_inf_nan=False)] | None = Field(
        None,
        description="Smallest face to detect, as a share of the photo's longer side; null: the detector's.",
    )
    no_face: Literal["keep", "drop", "crop"] = Field(
        "keep", description="Photos without a face: keep, the whole photo as a crop | drop | crop, the middle square."
    )
    all_faces: bool = Field(
        False, description="true: an unlabeled photo gives a crop of every face, not only of the chosen one."
    )
    several_faces: Literal["highest_score", "largest", "central", "drop"] = Field(
        "highest_score", description="highest_score | largest | central | drop."
    )
    max_pixels: Annotated[int, Field(ge=1, le=178_956_970)] = Field(  # Pillow itself refuses larger ones
        50000000, description="Larger images are refused before decoding (decompression bombs)."
    )
    shard_size: Positive = Field(1024, description="Images per tar shard, the unit of resumption.")

    @model_validator(mode="after")
    def _check(self) -> AlignSettings:
        if self.second_detector == self.detector:
            raise ValueError(f"second_detector must be another than detector, which is {self.detector}, or null")
        return self
