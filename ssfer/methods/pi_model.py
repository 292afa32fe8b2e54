"""Pi-model: two random views of a face get the same prediction (Laine and Aila 2017, section 2.1)."""

from typing import ClassVar

import torch
from pydantic import Field

from ssfer.core.settings import Share, Weight
from ssfer.methods.base import Batch
from ssfer.methods.shared.losses import probability_mse
from ssfer.methods.shared.ramped import Ramped, Terms
from ssfer.methods.shared.settings import ShapedRampSettings


class PiModel(Ramped):
    """Unlabeled loss: mean squared difference of the two predictions; both have gradient, as in algorithm 1.

    Decisions: only unlabeled faces enter it, as labeled ones come in a single view; the paper has all. Its noise is
    augmentation and dropout, of which the ViT here has only the former.
    """

    class Settings(ShapedRampSettings):
        """Section methods.pi_model of params.yaml."""

        lambda_u: Weight = Field(
            10.0, description="Weight of the unlabeled loss (paper: 100 * share of labeled images)."
        )
        rampup: Share = Field(
            0.4, description="Share of the run's steps over which the weight rises (paper: 80 of 300 epochs)."
        )

    settings: Settings
    title, paper = "Pi-model", "Laine and Aila 2017"
    views: ClassVar[tuple[str, ...]] = ("w", "w2")

    def terms(self, batch: Batch) -> Terms:
        """See `Ramped.terms`."""
        images = [batch[k] for k in ("x_lb", "x_ulb_w", "x_ulb_w2")]
        labeled, first, second = self.student(torch.cat(images)).split([len(view) for view in images])
        probs = first.softmax(dim=1)
        return Terms(self.labeled_loss(labeled, batch["y_lb"]), probability_mse(second, probs), probs)
