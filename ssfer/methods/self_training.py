"""Pseudo-labels by confidence: what the methods share that learn the classes they are sure of."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.imbalance import Imbalance, of_all_processes
from ssfer.losses import masked_cross_entropy
from ssfer.methods.base import Batch, Method
from ssfer.training_params import PseudoLabelParams


class SelfTraining(Method):
    """One network's confident classes on the weak view are what the student learns on the strong view.

    loss = CE(labeled, weak view) + lambda_u * (1/B) sum_i mask_i CE(student(strong_i), class_i). A subclass says whose
    predictions label (`label_logits`).
    """

    views: ClassVar[tuple[str, ...]] = ("w", "s")

    def __init__(self, student: nn.Module, params: PseudoLabelParams, imbalance: Imbalance | None = None) -> None:
        super().__init__(student)
        self.params = params
        self.imbalance = imbalance or Imbalance()

    def label_logits(self, weak: Tensor) -> Tensor:
        """Return the logits (B, K) that label the weak views of unlabeled faces, without gradient."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`. Monitors: util_ratio, and per true class the seen, kept and rightly kept samples."""
        p, labeled = self.params, len(batch["x_lb"])
        probs = self.imbalance.align(self.label_logits(batch["x_ulb_w"]).softmax(dim=1))
        mask, target = self.imbalance.mask(probs, batch.get("idx_ulb"), p)
        logits = self.imbalance.adjust(self.student(torch.cat([batch["x_lb"], batch["x_ulb_s"]])))
        labeled_loss = F.cross_entropy(logits[:labeled], batch["y_lb"])
        unlabeled_loss = masked_cross_entropy(logits[labeled:], target, mask)
        return {
            "loss": labeled_loss + p.lambda_u * unlabeled_loss,
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


def kept_share(mask: Tensor) -> Tensor:
    """Return the share of samples that `mask` (B,) keeps, over all processes; at least one sample's.

    A mean over the batch divided by it is one over the kept samples. A batch that machine.max_batch cuts into parts has
    a share for each of them.
    """
    every = of_all_processes(mask)
    return every.sum().clamp(min=1) / len(every)
