"""MixMatch: sharpened label guesses, and mixup of labeled and unlabeled images (Berthelot et al. 2019)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ssfer.core.settings import Above, Share, Temperature, Weight
from ssfer.methods.base import Batch
from ssfer.methods.shared.losses import probability_mse, soft_cross_entropy
from ssfer.methods.shared.ramped import Ramped, Terms
from ssfer.methods.shared.settings import RampedSettings
from ssfer.methods.shared.targets import draw_mixing, mix, sharpen


class MixMatch(Ramped):
    """The label guess of a face is the mean prediction of its two weak views, sharpened (equations 6 and 7).

    Every labeled or unlabeled image is mixed with a random one of all of them (equations 8 to 15). The loss is cross-
    entropy for labeled and squared difference for unlabeled ones. Partners are images that a process trains on at once.
    """

    class Settings(RampedSettings):
        """Section methods.mixmatch of params.yaml."""

        lambda_u: Weight = Field(10.0, description="Weight of the unlabeled loss (paper: 75 or 100).")
        rampup: Share = Field(0.4, description="Share of the run's steps over which the weight rises.")
        temperature: Temperature = Field(0.5, description="Temperature of the sharpening.")
        alpha: Above = Field(0.5, description="Parameter of the mixing's Beta distribution (paper: 0.75).")

    settings: Settings
    title, paper = "MixMatch", "Berthelot et al. 2019"
    views: ClassVar[tuple[str, ...]] = ("w", "w2")
    corrections: ClassVar[tuple[str, ...]] = ("distribution_alignment", "logit_adjustment")

    def guess(self, batch: Batch) -> Tensor:
        """Return the mean prediction of the weak views (B, K), without gradient."""
        with torch.no_grad():
            both = self.student(torch.cat([batch["x_ulb_w"], batch["x_ulb_w2"]])).softmax(dim=1)
        return self.imbalance.align(both.unflatten(0, (2, -1)).mean(dim=0))

    def terms(self, batch: Batch) -> Terms:
        """See `Ramped.terms`."""
        p, n = self.settings, len(batch["x_lb"])
        lam = draw_mixing(p.alpha)  # first, as all parts of a batch draw it
        probs = self.guess(batch)
        target = sharpen(probs, p.temperature)
        images = torch.cat([batch["x_lb"], batch["x_ulb_w"], batch["x_ulb_w2"]])
        targets = torch.cat([F.one_hot(batch["y_lb"], probs.shape[1]).to(target), target, target])
        order = torch.randperm(len(images), device=images.device)
        logits, mixed = self.student(mix(images, lam, order)), mix(targets, lam, order)
        labeled = soft_cross_entropy(self.imbalance.adjust(logits[:n]), mixed[:n]).mean()
        return Terms(labeled, probability_mse(logits[n:], mixed[n:]), probs)
