"""Section `split` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ssfer.core.settings import BelowOne, NonNegative, Positive, Section, Seed

# timm's reader ignores parts that it does not know, so they are checked here.
RandAugment = Annotated[
    str, Field(pattern=r"^rand(-m\d+|-n[1-9]\d*|-p(0(\.\d+)?|1(\.0+)?)|-mstd\d+(\.\d+)?|-mmax\d+|-inc[01]|-t[a-z]+)+$")
]


class SplitSettings(Section):
    """The parts of the labeled sources, drawn once."""

    seed: Seed = Field(2024, description="Seed of all that is drawn.")
    labeled_fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.1, description="Share of each class that is labeled; give exactly one of the three budgets."
    )
    labeled_per_class: Positive | None = Field(None, description="Labeled images of each class.")
    labeled_total: Positive | None = Field(None, description="Labeled images of all classes together.")
    per_class_shortage: Literal["refuse", "cap"] = Field(
        "refuse", description="A class with fewer than labeled_per_class: refuse | cap, all it has."
    )
    rounding: Literal["half_up", "half_even"] = Field(
        "half_up", description="half_up: the paper's totals; half_even: the authors' code."
    )
    val_fraction: BelowOne = Field(
        0.1, description="Of the labeled images, held out for checkpoint selection (0: none)."
    )
    label_noise: BelowOne = Field(
        0.0, description="Share of the labeled images, validation included, with a wrong label (paper: Table 8)."
    )
    flagged: Literal["keep", "drop"] = Field(
        "keep", description="Training faces with doubtful landmarks (landmark_flag of the manifest): keep | drop."
    )
    bare_faces: Literal["tables", "all", "none"] = Field(
        "tables",
        description="Faces without a label that join the unlabeled part: tables: rows of tables with an empty label, "
        "photos in folders named unlabeled | all: also sources with labeled: false | none: only labeled sources, as in "
        "the paper.",
    )
    redraw_for_semi: bool = Field(
        False, description="true: LABEL LEAK of the release: semisup draws its labels anew, almost twice as many."
    )
    fold: NonNegative | None = Field(
        None, description="0 to folds - 1: this fold of the training images is the test part, for cross-validation."
    )
    folds: Annotated[int, Field(ge=2, le=1000)] = Field(5, description="Number of folds (paper: 5).")
    fold_by: Literal["image", "class", "identity", "official"] = Field(
        "image",
        description="image | class: of each class alike | identity: a person's photos in one fold | official: the data "
        "set's own (adience).",
    )
    fold_seed: Seed = Field(42, description="Seed of the folds by image, class and identity.")

    @model_validator(mode="after")
    def _check(self) -> SplitSettings:
        given = [v for v in (self.labeled_fraction, self.labeled_per_class, self.labeled_total) if v is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of labeled_fraction, labeled_per_class, labeled_total; the others null")
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} is none of the {self.folds} folds, which are 0 to {self.folds - 1}")
        return self
