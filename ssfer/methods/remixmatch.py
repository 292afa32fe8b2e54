"""ReMixMatch: MixMatch with aligned guesses, strong views anchored to them, and rotations (Berthelot et al. 2020)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ssfer.core.settings import Above, Share, Temperature, Weight
from ssfer.methods.base import Batch
from ssfer.methods.context import Context
from ssfer.methods.shared.losses import soft_cross_entropy
from ssfer.methods.shared.ramped import Ramped, Terms
from ssfer.methods.shared.settings import RampedSettings
from ssfer.methods.shared.targets import draw_mixing, mix, quarter_turns, rotate, sharpen
from ssfer.models.features import features_and_logits
from ssfer.models.heads import num_features


class ReMixMatch(Ramped):
    """The weak view's prediction, aligned with the labels' distribution and sharpened, is the target of all views.

    Labeled (strong), strong and weak views are mixed as in MixMatch, all with soft cross-entropy (algorithm 1). The
    first strong view is also trained unmixed on this target (lambda_s) and on its rotation (lambda_r). These two
    weights do not rise.

    Decisions: two strong views (the paper: up to 8, its K); RandAugment, as in all methods here, instead of CTAugment,
    whose strength is learned.
    """

    class Settings(RampedSettings):
        """Section methods.remixmatch of params.yaml."""

        lambda_u: Weight = Field(1.5, description="Weight of the unlabeled loss (paper: 1.5).")
        rampup: Share = Field(
            0.015625, description="Share of the run's steps over which the weight of the unlabeled loss rises."
        )
        temperature: Temperature = Field(0.5, description="Temperature of the sharpening.")
        alpha: Above = Field(0.75, description="Parameter of the mixing's Beta distribution.")
        lambda_s: Weight = Field(0.5, description="Weight of the unmixed strong view (paper: 0.5).")
        lambda_r: Weight = Field(
            0.5, description="Weight of predicting the rotation (0, 90, 180, 270 degrees) of a face (paper: 0.5)."
        )

    settings: Settings
    title, paper = "ReMixMatch", "Berthelot et al. 2020"
    always: ClassVar[tuple[str, ...]] = ("distribution_alignment",)
    views: ClassVar[tuple[str, ...]] = ("w", "s", "s2")
    labeled_view: ClassVar[str] = "s"
    corrections: ClassVar[tuple[str, ...]] = ("distribution_alignment", "logit_adjustment")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.turns = nn.Linear(num_features(self.student), 4)

    def terms(self, batch: Batch) -> Terms:
        """See `Ramped.terms`."""
        p, n = self.settings, len(batch["x_lb"])
        weak, first, second = (batch[f"x_ulb_{view}"] for view in self.views)
        lam = draw_mixing(p.alpha)  # first, as all parts of a batch draw it
        with torch.no_grad():
            probs = self.imbalance.align(self.student(weak).softmax(dim=1))
        target = sharpen(probs, p.temperature)
        images = torch.cat([batch["x_lb"], first, second, weak])
        targets = torch.cat([F.one_hot(batch["y_lb"], probs.shape[1]).to(target), target, target, target])
        order = torch.randperm(len(images), device=images.device)
        turns = quarter_turns(batch["key_ulb"])
        everything = torch.cat([mix(images, lam, order), first, rotate(first, turns)])
        features, logits = features_and_logits(self.student, everything)
        mixed, pure, _ = self.imbalance.adjust(logits).split([len(images), len(first), len(first)])
        losses = soft_cross_entropy(mixed, mix(targets, lam, order))
        turned = F.cross_entropy(self.turns(features[-len(first) :]), turns)
        extra = p.lambda_s * soft_cross_entropy(pure, target).mean() + p.lambda_r * turned
        return Terms(losses[:n].mean(), losses[n:].mean(), probs, extra=extra)
