"""Pseudo-Label: the class predicted for a view is also the one it is taught (Lee 2013)."""

from __future__ import annotations

from typing import ClassVar

import torch

from ssfer.config.methods import PseudoLabelsParams
from ssfer.methods.base import Batch
from ssfer.methods.shared.losses import confidence_mask, masked_cross_entropy
from ssfer.methods.shared.ramped import Ramped, Terms


class PseudoLabel(Ramped):
    """Unlabeled loss: cross-entropy of the view's own most probable class (equations 14 to 16).

    Decisions: the weight rises from the first step (the paper's T1 is 0), as the student is fine-tuned already. The
    paper has no threshold (0 keeps all); later comparisons have 0.95.
    """

    views: ClassVar[tuple[str, ...]] = ("w",)
    params: PseudoLabelsParams
    corrections: ClassVar[tuple[str, ...]] = ("distribution_alignment", "logit_adjustment")

    def terms(self, batch: Batch) -> Terms:
        """See `Ramped.terms`."""
        n = len(batch["x_lb"])
        logits = self.student(torch.cat([batch["x_lb"], batch["x_ulb_w"]]))
        probs = self.imbalance.align(logits[n:].detach().softmax(dim=1))
        mask, target = confidence_mask(probs, self.params.threshold, self.params.threshold_op)
        unlabeled = masked_cross_entropy(self.imbalance.adjust(logits[n:]), target, mask)
        return Terms(self.labeled_loss(logits[:n], batch), unlabeled, probs, mask)
