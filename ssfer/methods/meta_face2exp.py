"""Meta-Face2Exp: a student learns its teacher's classes; the change of its labeled loss trains the teacher."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ssfer.core.settings import Share, Temperature, Weight
from ssfer.methods.base import Batch, SemiSupervised
from ssfer.methods.context import Context
from ssfer.methods.shared.losses import masked_soft_cross_entropy
from ssfer.methods.shared.self_training import report
from ssfer.methods.shared.settings import UnlabeledSettings


class MetaFace2Exp(SemiSupervised):
    """Meta Pseudo Labels with UDA for the teacher, as in the code released with Face2Exp (Zeng et al., CVPR 2022).

    First step, the student's: cross-entropy of the strong views with the teacher's classes of the weak views. Second
    step, the teacher's: CE(labeled) + lambda_u CE(strong, its own probabilities of the weak view) + feedback * h *
    CE(strong, its own class of it), where h is the student's loss on the labeled images before its step minus the loss
    after it: above 0 if the teacher's classes helped. The student is tested; it is not trained on any label.

    Differences: both start from the fine-tuned weights; views and optimizer are the project's. The teacher runs twice,
    without gradient in the first step, and weak views run separately, so that batch norms see other batches and are
    updated more often. h is computed over the images that a process trains on at once. No fine-tuning follows.
    """

    class Settings(UnlabeledSettings):
        """Section methods.meta_face2exp of params.yaml."""

        lambda_u: Weight = Field(1.0, description="Weight of the teacher's unlabeled loss.")
        temperature: Temperature = Field(1.0, description="Temperature of the teacher's targets.")
        threshold: Share | None = Field(
            None, description="Confidence that a teacher's target needs; null: none (authors)."
        )
        feedback: Weight = Field(
            1.0, description="Weight of the feedback: how the student's step changed the loss on labeled images."
        )
        feedback_label: Literal["strong", "weak"] = Field(
            "strong",
            description="View whose predicted class is used: strong (authors) | weak, as the student's.",
        )

    settings: Settings
    title, paper = "Meta-Face2Exp", "Zeng et al. 2022"
    views: ClassVar[tuple[str, ...]] = ("w", "s")
    targets: ClassVar[tuple[str, ...]] = ("w",)
    exports: ClassVar[Mapping[str, str]] = {"student": "student", "teacher": "teacher"}
    trained: ClassVar[tuple[str, ...]] = ("student", "teacher")
    two_steps: ClassVar[bool] = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.teacher = copy.deepcopy(self.student)
        self._before: list[Tensor] = []  # the student's loss on labeled images before its step, per part of a batch

    def forward(self, batch: Batch, second: bool = False) -> dict[str, Tensor]:
        """See `Method.forward`; the loss of the student's step, then that of the teacher's.

        Monitors: those of `report`, of the teacher before its step.
        """
        if second:
            return {"loss": self._teachers_loss(batch)}
        with torch.no_grad():
            labeled_loss, unlabeled_loss, mask, weak, _ = self._teachers_terms(batch)
        n, label = len(batch["x_lb"]), weak.argmax(dim=1)
        labeled, strong = self.student(torch.cat([batch["x_lb"], batch["x_ulb_s"]])).tensor_split([n])
        self._before.append(F.cross_entropy(labeled.detach(), batch["y_lb"]))
        return {
            "loss": F.cross_entropy(strong, label),
            **report(labeled_loss, unlabeled_loss, mask, label, batch["y_ulb"], weak.shape[1]),
        }

    def _teachers_loss(self, batch: Batch) -> Tensor:
        p = self.settings
        labeled_loss, unlabeled_loss, _, weak, strong = self._teachers_terms(batch)
        with torch.no_grad():
            gain = self._before.pop(0) - F.cross_entropy(self.student(batch["x_lb"]), batch["y_lb"])
            label = (strong if p.feedback_label == "strong" else weak).argmax(dim=1)
        return labeled_loss + p.lambda_u * unlabeled_loss + p.feedback * gain * F.cross_entropy(strong, label)

    def _teachers_terms(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return both losses, which targets count (B,), the targets (B, K), and logits (B, K) of the strong views."""
        p, n = self.settings, len(batch["x_lb"])
        labeled, strong = self.teacher(torch.cat([batch["x_lb"], batch["x_ulb_s"]])).tensor_split([n])
        with torch.no_grad():
            probs = (self.teacher(batch["x_ulb_w"]) / p.temperature).softmax(dim=1)
        mask = (probs.amax(dim=1) >= (p.threshold or 0.0)).float()
        unlabeled_loss = masked_soft_cross_entropy(strong, probs, mask)
        return F.cross_entropy(labeled, batch["y_lb"]), unlabeled_loss, mask, probs, strong

    def after_step(self, step: int) -> None:
        """See `Method.after_step`."""
        super().after_step(step)
        self._before.clear()
