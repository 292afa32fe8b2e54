"""Pseudo-Label: the class predicted for a view is the target of the same view (Lee 2013)."""

from typing import ClassVar

import torch
from pydantic import Field

from ssfer.core.settings import Share, Weight
from ssfer.methods.base import Batch
from ssfer.methods.shared.losses import confidence_mask, masked_cross_entropy
from ssfer.methods.shared.ramped import Ramped, Terms
from ssfer.methods.shared.settings import RampedSettings


class PseudoLabel(Ramped):
    """Unlabeled loss: cross-entropy of the view's own most probable class (equations 14 to 16).

    Decisions: the weight rises from the first step (T1 of the paper is 0 here), because the student is already
    fine-tuned. The paper has no threshold (0 keeps all images) and a weight of 3; threshold and weight are those of
    USB, a public recipe for vision transformers.
    """

    class Settings(RampedSettings):
        """Section methods.pseudo_label of params.yaml."""

        lambda_u: Weight = Field(1.0, description="Weight of the unlabeled loss (paper: 3).")
        rampup: Share = Field(
            0.4, description="Share of the run's steps over which the weight of the unlabeled loss rises."
        )
        threshold: Share = Field(
            0.95, description="Confidence a pseudo-label needs (paper: none, all images are taken)."
        )

    settings: Settings
    title, paper = "Pseudo-Label", "Lee 2013"
    views: ClassVar[tuple[str, ...]] = ("w",)
    corrections: ClassVar[tuple[str, ...]] = ("distribution_alignment", "logit_adjustment")

    def terms(self, batch: Batch) -> Terms:
        """See `Ramped.terms`."""
        n = len(batch["x_lb"])
        logits = self.student(torch.cat([batch["x_lb"], batch["x_ulb_w"]]))
        probs = self.imbalance.align(logits[n:].detach().softmax(dim=1))
        mask, target = confidence_mask(probs, self.settings.threshold)
        unlabeled = masked_cross_entropy(self.imbalance.adjust(logits[n:]), target, mask)
        return Terms(self.labeled_loss(logits[:n], batch["y_lb"]), unlabeled, probs, mask)
