"""Thresholds per class that rise with a network's confidence in the labeled images (LEAF, section 4.1; Ada-CM).

Letters: K classes, N labeled images.
"""

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ssfer.core.settings import Share, Temperature, Weight
from ssfer.methods.base import Batch
from ssfer.methods.context import Context
from ssfer.methods.shared.averaged import Averaged
from ssfer.methods.shared.self_training import SelfTraining
from ssfer.methods.shared.settings import AveragedSettings, PseudoLabelSettings
from ssfer.models.prediction import predictions

CEILING = 0.97  # the share of the mean confidence that a threshold approaches


def adaptive_thresholds(probs: Tensor, labels: Tensor, epoch: int, num_classes: int, floor: float = 0.8) -> Tensor:
    """Return the confidence a pseudo-label of each class needs (K,), from `floor` to 0.97 (LEAF, section 4.1).

    T_c = max(floor, mean * 0.97 / (1 + e^-epoch)), with the mean confidence in the correctly predicted images of class
    c; `floor` if there are none.

    Args:
        probs: predictions for labeled images (N, K).
        labels: (N,) int64.
        epoch: number of finished epochs, from 1.
    """
    confidence, predicted = probs.max(dim=1)
    right = predicted == labels
    sums = torch.zeros(num_classes, dtype=probs.dtype, device=probs.device)
    sums.index_add_(0, labels[right], confidence[right])
    mean = sums / torch.bincount(labels[right], minlength=num_classes).clamp(min=1)
    return (mean * CEILING / (1 + math.exp(-epoch))).clamp(min=floor)


class ThresholdSettings(PseudoLabelSettings, AveragedSettings):
    """Settings of methods with these thresholds."""

    threshold: Share = Field(
        0.8, description="Lowest threshold of a class; it rises with the confidence in labeled images, up to 0.97."
    )
    lambda_x: Weight = Field(0.5, description="Weight of the labeled loss.")
    lambda_u: Weight = Field(1.0, description="Weight of the unlabeled loss.")
    lambda_s: Weight = Field(0.1, description="Weight of the contrastive loss on faces below the threshold.")
    temperature: Temperature = Field(0.07, description="Temperature of the contrastive loss.")
    ema_decay: Share = Field(0.99, description="Decay of the network that is tested (authors: 0.999).")
    threshold_views: Literal["eval", "train"] = Field(
        "eval", description="Labeled views whose confidence sets it: eval | train, whole weak batches (authors)."
    )


class LabeledThresholds(Averaged, SelfTraining):
    """Thresholds per class that rise with the evaluated network's confidence in the labeled images after each epoch."""

    labeled_pass_views: Literal["eval", "train"] | None = "eval"
    views: ClassVar[tuple[str, ...]] = ("w", "w2", "s")
    targets: ClassVar[tuple[str, ...]] = ()  # the contrastive loss has gradients for the weak views
    settings: ThresholdSettings
    thresholds: Tensor  # (K,)

    def __init__(self, context: Context, num_classes: int) -> None:
        super().__init__(context)
        self.labeled_pass_views = self.settings.threshold_views
        self.register_buffer("thresholds", torch.full((num_classes,), self.settings.threshold))

    def labeled_pass(self, epoch: int, labeled: Iterable[Batch]) -> None:
        """See `Method.labeled_pass`."""
        if epoch:
            self.raise_thresholds(epoch, *predictions(self.eval_module(), labeled))

    def raise_thresholds(self, epoch: int, probs: Tensor, labels: Tensor) -> None:
        """Set the thresholds from predictions (N, K) and labels (N,) with `adaptive_thresholds`."""
        self.thresholds.copy_(adaptive_thresholds(probs, labels, epoch, len(self.thresholds), self.settings.threshold))
