"""Settings that several methods have; each method sets its own defaults in its own file."""

from typing import Literal

from pydantic import Field

from ssfer.core.settings import NonNegative, Section, Share, Text, Weight


class UnlabeledSettings(Section):
    """Settings of methods with an unlabeled loss."""

    lambda_u: Weight


class PseudoLabelSettings(UnlabeledSettings):
    """Settings of methods that keep confident pseudo-labels."""

    threshold: Share


class AveragedSettings(Section):
    """Settings of methods that are tested as an average of their weights."""

    ema_decay: Share


class RampedSettings(UnlabeledSettings):
    """Settings of methods whose unlabeled loss has a rising weight."""

    rampup: Share


class ShapedRampSettings(RampedSettings):
    """Settings of methods for which the shape of the rise can be chosen."""

    ramp: Literal["sigmoid", "linear"] = Field("sigmoid", description="How the weight rises: sigmoid (paper) | linear.")


class ImbalanceSettings(Section):
    """Corrections of class imbalance, beyond the paper."""

    distribution_alignment: bool = Field(
        False, description="true: align the pseudo-labels' class distribution with the labels' (ReMixMatch)."
    )
    class_thresholds: bool = Field(
        False, description="true: a class that is predicted confidently less often has a lower threshold (FlexMatch)."
    )
    forget_unsure: bool = Field(
        False,
        description="With class_thresholds, an image whose latest prediction is below the threshold | false: keeps its "
        "last class above it, as in FlexMatch's code | true: counts for no class.",
    )
    logit_adjustment: Weight = Field(
        0.0, description="Tau of the logit-adjusted cross-entropy (Menon et al. 2021), of labels and pseudo-labels."
    )


class LeafPartsSettings(Section):
    """Parts of LEAF added to methods that learn from masked pseudo-labels."""

    expert_head: bool = Field(False, description="The two mixtures of experts.")
    ambiguous_loss: bool = Field(False, description="Pseudo-labels of several classes.")


class StageSettings(Section):
    """The part of section `semisup` that decides which method is built."""

    seed: NonNegative = Field(2024, description="Seed of all that is drawn.")
    method: Text = Field(
        "ema_teacher",
        description="Name of a method, package.module:Name or ./file.py:Name (docs/explanation/methods.md).",
    )
    targets: Literal["labels", "votes"] = Field(
        "labels", description="Labeled images: labels | votes, as in finetune; for methods with masked pseudo-labels."
    )
    average: Share | None = Field(
        None,
        description="Decay of a running average of the student's weights, also saved and tested, as `average`; "
        "null: none. Methods whose teacher is one keep it, with their own decay.",
    )
    leaf_parts: LeafPartsSettings = Field(default_factory=LeafPartsSettings)
    imbalance: ImbalanceSettings = Field(default_factory=ImbalanceSettings)
