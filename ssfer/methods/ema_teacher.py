"""EMA teacher: confident predictions of the averaged network label the unlabelled faces (SSFER specification 10)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.losses import confidence_mask, masked_cross_entropy
from ssfer.methods.base import Batch, Method
from ssfer.models.ema import EMA
from ssfer.training_params import EmaTeacherParams


class EMATeacher(Method):
    """The teacher sees the weak view, the student learns its confident classes on the strong view."""

    views: ClassVar[tuple[str, ...]] = ("w", "s")

    def __init__(self, student: nn.Module, params: EmaTeacherParams) -> None:
        super().__init__(student)
        self.params = params
        self.teacher = EMA(student, params.ema_decay)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`. Monitors: util_ratio, pseudo_acc (nan if nothing is kept), counts by true class."""
        p, labeled = self.params, len(batch["x_lb"])
        probs = self.teacher(batch["x_ulb_w"]).softmax(dim=1)
        mask, target = confidence_mask(probs, p.threshold, p.threshold_op)
        logits = self.student(torch.cat([batch["x_lb"], batch["x_ulb_s"]]))
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
        """Move the teacher."""
        self.teacher.update(self.student)

    def eval_module(self) -> nn.Module:
        """Return the teacher."""
        return self.teacher.module


def pseudo_label_counts(mask: Tensor, target: Tensor, truth: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Return per true class (K,): all, kept and correctly kept samples; monitoring only, truth -1 is not counted."""
    known = truth >= 0
    kept = known & (mask > 0)

    def count(which: Tensor) -> Tensor:
        return torch.bincount(truth[which], minlength=num_classes)

    return {"class_count": count(known), "kept_count": count(kept), "correct_count": count(kept & (target == truth))}
