"""Pseudo-labels by confidence: what the methods share that learn the classes they are sure of."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.imbalance import Imbalance
from ssfer.losses import masked_cross_entropy
from ssfer.methods.base import Batch, Method
from ssfer.models.experts import expert_head
from ssfer.models.features import full_output
from ssfer.training_params import PseudoLabelParams

# logits (B, K) of the view that learns, pseudo-labels (B,), their mask (B,), target probabilities (B, K) -> scalar
PseudoLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def one_class(logits: Tensor, target: Tensor, mask: Tensor, probs: Tensor) -> Tensor:
    """Return the masked cross-entropy of the likeliest class."""
    return masked_cross_entropy(logits, target, mask)


class SelfTraining(Method):
    """One network's confident classes on the weak view are what the student learns on the strong view.

    loss = CE(labeled, weak view) + lambda_u * (1/B) sum_i mask_i CE(student(strong_i), class_i). A subclass says whose
    predictions label (`label_logits`). A student with a head of experts adds their balance loss, and `pseudo_loss`
    may be another one (`ssfer.methods.leaf_parts`).
    """

    views: ClassVar[tuple[str, ...]] = ("w", "s")

    def __init__(self, student: nn.Module, params: PseudoLabelParams, imbalance: Imbalance | None = None) -> None:
        super().__init__(student)
        self.params = params
        self.imbalance = imbalance or Imbalance()
        self.pseudo_loss: PseudoLoss = one_class

    def label_logits(self, weak: Tensor) -> Tensor:
        """Return the logits (B, K) that label the weak views of unlabeled faces, without gradient."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`. Monitors: util_ratio, and per true class the seen, kept and rightly kept samples."""
        p, labeled = self.params, len(batch["x_lb"])
        probs = self.imbalance.align(self.label_logits(batch["x_ulb_w"]).softmax(dim=1))
        mask, target = self.imbalance.mask(probs, batch.get("idx_ulb"), p)
        images = torch.cat([batch["x_lb"], batch["x_ulb_s"]])
        # The call of a network with another head stays as it was: not all know their features.
        out = full_output(self.student, images) if expert_head(self.student) else None
        logits = self.imbalance.adjust(out.logits if out else self.student(images))
        labeled_loss = F.cross_entropy(logits[:labeled], batch["y_lb"])
        unlabeled_loss = self.pseudo_loss(logits[labeled:], target, mask, probs)
        loss = labeled_loss + p.lambda_u * unlabeled_loss
        return {
            "loss": loss + out.balance if out else loss,
            "labeled_loss": labeled_loss.detach(),
            "unlabeled_loss": unlabeled_loss.detach(),
            "util_ratio": mask.mean(),
            **pseudo_label_counts(mask, target, batch["y_ulb"], probs.shape[1]),
        }

    def after_step(self, step: int) -> None:
        """Remember the step's predictions for the corrections of imbalance."""
        self.imbalance.after_step(step)


def pseudo_label_counts(mask: Tensor, target: Tensor, truth: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Return per true class (K,): all, kept and correctly kept samples; monitoring only, truth -1 is not counted."""
    known = truth >= 0
    kept = known & (mask > 0)

    def count(which: Tensor) -> Tensor:
        return torch.bincount(truth[which], minlength=num_classes)

    return {"class_count": count(known), "kept_count": count(kept), "correct_count": count(kept & (target == truth))}
