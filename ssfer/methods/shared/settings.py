"""Settings that several methods have; each method says its own values in its own file."""

from typing import Literal

from pydantic import Field

from ssfer.core.settings import NonNegative, Section, Share, Text, Weight


class UnlabeledSettings(Section):
    """Of methods with a loss of unlabeled images."""

    lambda_u: Weight


class PseudoLabelSettings(UnlabeledSettings):
    """Of methods that keep what they are sure of."""

    threshold: Share


class AveragedSettings(Section):
    """Of methods that are tested as an average of their weights."""

    ema_decay: Share


class RampedSettings(UnlabeledSettings):
    """Of methods whose unlabeled loss gains weight with time."""

    rampup: Share


class ImbalanceSettings(Section):
    """Corrections against uneven classes, beyond the paper."""

    distribution_alignment: bool = Field(
        False, description="True: pseudo-labels take on the labels' class distribution (ReMixMatch)."
    )
    class_thresholds: bool = Field(
        False, description="True: a class predicted with confidence less often gets a lower threshold (FlexMatch)."
    )
    forget_unsure: bool = Field(
        False,
        description="For class_thresholds: an image whose newest prediction is below the threshold keeps its last "
        "class above it: false, as FlexMatch's authors | counts for none: true.",
    )
    logit_adjustment: Weight = Field(
        0.0, description="Tau of the logit-adjusted cross-entropy (Menon et al. 2021), of labels and pseudo-labels."
    )


class LeafPartsSettings(Section):
    """LEAF's parts in methods that learn from masked pseudo-labels."""

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
        "labels", description="Of labeled images: labels | votes, as in finetune; methods with masked pseudo-labels."
    )
    average: Share | None = Field(
        None,
        description="Decay of a running average of the student's weights, also saved and tested, as `average`; "
        "null: none. Methods whose teacher is one keep it, with their own decay.",
    )
    leaf_parts: LeafPartsSettings = Field(default_factory=LeafPartsSettings)
    imbalance: ImbalanceSettings = Field(default_factory=ImbalanceSettings)
