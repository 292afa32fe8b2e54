"""Pi-model: two random views of a face get the same prediction (Laine and Aila 2017, section 2.1)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ssfer.methods.base import Batch
from ssfer.methods.shared.losses import probability_mse
from ssfer.methods.shared.ramped import Ramped, Terms
from ssfer.methods.shared.thresholds import sigmoid_rampup


class PiModel(Ramped):
    """Unlabeled loss: mean squared difference of the two predictions; both have gradient, as in algorithm 1.

    Decisions: only unlabeled faces enter it, as labeled ones come in a single view; the paper has all. Its noise is
    augmentation and dropout, of which the ViT here has only the former.
    """

    views: ClassVar[tuple[str, ...]] = ("w", "w2")

    def ramp(self) -> Tensor:
        """Return the paper's r(t)."""
        return sigmoid_rampup(self.clock.share, self.params.rampup)

    def terms(self, batch: Batch) -> Terms:
        """See `Ramped.terms`."""
        sizes = [len(batch[k]) for k in ("x_lb", "x_ulb_w", "x_ulb_w2")]
        images = torch.cat([batch["x_lb"], batch["x_ulb_w"], batch["x_ulb_w2"]])
        labeled, first, second = self.student(images).split(sizes)
        probs = first.softmax(dim=1)
        return Terms(self.labeled_loss(labeled, batch), probability_mse(second, probs), probs)
