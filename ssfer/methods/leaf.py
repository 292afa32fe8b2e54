"""LEAF: mixtures of experts and ambiguous pseudo-labels (arXiv 2404.15041; its release differs: params semisup.leaf).

Letters: B unlabeled images a step, K classes, D features, N labeled images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.config.methods import AdaCmParams, EmaTeacherParams
from ssfer.config.sitfer_leaf import LeafParams
from ssfer.evaluation.inference import predictions
from ssfer.methods.base import Batch
from ssfer.methods.shared.averaged import Averaged
from ssfer.methods.shared.imbalance import Imbalance, Population
from ssfer.methods.shared.leaf_parts import AmbiguousPseudoLoss, check_classes, number_of_classes
from ssfer.methods.shared.losses import nt_xent
from ssfer.methods.shared.self_training import SelfTraining, report
from ssfer.models.experts import add_experts
from ssfer.models.features import full_output

CEILING = 0.97  # a threshold's share of the mean confidence, in the end


def adaptive_thresholds(probs: Tensor, labels: Tensor, epoch: int, num_classes: int, floor: float = 0.8) -> Tensor:
    """Return the confidence a pseudo-label of each class needs (K,), from `floor` to 0.97 (LEAF, section 4.1).

    T_c = max(floor, mean * 0.97 / (1 + e^-epoch)), with the mean confidence in the images of class c that are
    predicted rightly; `floor` if there are none.

    Args:
        probs: predictions for labeled images (N, K).
        labels: (N,) int64.
        epoch: of training that has ended, from 1.
    """
    confidence, predicted = probs.max(dim=1)
    right = predicted == labels
    sums = torch.zeros(num_classes, dtype=probs.dtype, device=probs.device)
    sums.index_add_(0, labels[right], confidence[right])
    mean = sums / torch.bincount(labels[right], minlength=num_classes).clamp(min=1)
    return (mean * CEILING / (1 + math.exp(-epoch))).clamp(min=floor)


class LabeledThresholds(Averaged, SelfTraining):
    """Thresholds per class that rise with what the evaluated network says of the labeled images after each epoch."""

    surveys: Literal["eval", "train"] | None = "eval"
    params: EmaTeacherParams | AdaCmParams
    thresholds: Tensor  # (K,)

    def survey(self, epoch: int, labeled: Iterable[Batch]) -> None:
        """See `Method.survey`."""
        if epoch:
            self.raise_thresholds(epoch, *predictions(self.eval_module(), labeled))

    def raise_thresholds(self, epoch: int, probs: Tensor, labels: Tensor) -> None:
        """Set them by predictions (N, K) of labels (N,): `adaptive_thresholds`."""
        self.thresholds.copy_(adaptive_thresholds(probs, labels, epoch, len(self.thresholds), self.params.threshold))


class LEAF(LabeledThresholds):
    """The student labels the mean of two weak views and learns several likely classes on the strong view.

    loss = lambda_x CE(labeled) + lambda_u L_u + lambda_s L_s + balance of the experts. L_u: `AmbiguousPseudoLoss` of
    the images whose confidence reaches their class's threshold; L_s: `nt_xent` between the weak views of the others.
    All images of a step go through the student together. L_s, the balance and the scale of L_u are of the images that
    a process trains on at once.
    """

    views: ClassVar[tuple[str, ...]] = ("w", "w2", "s")
    targets: ClassVar[tuple[str, ...]] = ()  # images that label nothing learn from the contrast of their weak views
    params: LeafParams

    def __init__(
        self,
        student: nn.Module,
        params: LeafParams,
        imbalance: Imbalance | None = None,
        population: Population | None = None,
    ) -> None:
        """Put the experts into the student.

        Raises:
            SsferError: a student without features, or of fewer classes than a pseudo-label may name.
        """
        super().__init__(add_experts(student, params), params, imbalance, population)
        num_classes = number_of_classes(self.student)
        check_classes(params, num_classes)
        self.surveys = params.threshold_views
        self.pseudo_loss = AmbiguousPseudoLoss(params)
        self.register_buffer("thresholds", torch.full((num_classes,), params.threshold))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`; monitors as in `report`, and the contrastive and the balance loss."""
        p, n = self.params, len(batch["x_lb"])
        weak = [batch["x_ulb_w"], batch["x_ulb_w2"]]
        out = full_output(self.student, torch.cat([batch["x_lb"], *weak, batch["x_ulb_s"]]))
        z_x, (z_a, z_b, z_s) = out.logits[:n], out.logits[n:].chunk(3)
        q_a, q_b, _ = out.features[n:].chunk(3)

        said = (self.teacher(weak[0]), self.teacher(weak[1])) if p.pseudo_from == "ema" else (z_a, z_b)
        a, b = (z.detach().float() for z in said)
        probs = self.imbalance.align((a.softmax(dim=1) + b.softmax(dim=1)) / 2)
        # As in the release: the class is that of the mean probabilities, the ambiguous target that of the mean logits.
        ambiguous = self.imbalance.align(((a + b) / 2).softmax(dim=1), remember=False)
        mask, target = self.imbalance.mask(probs, batch.get("idx_ulb"), p, self.thresholds)

        labeled_loss = F.cross_entropy(self.imbalance.adjust(z_x), batch["y_lb"])
        unlabeled_loss = self.pseudo_loss(self.imbalance.adjust(z_s), target, mask, ambiguous)
        unsure = mask == 0
        contrastive_loss = nt_xent(q_a[unsure], q_b[unsure], p.temperature)
        loss = p.lambda_x * labeled_loss + p.lambda_u * unlabeled_loss + p.lambda_s * contrastive_loss + out.balance
        return {
            "loss": loss,
            "contrastive_loss": contrastive_loss.detach(),
            "balance_loss": out.balance.detach(),
            **report(labeled_loss, unlabeled_loss, mask, target, batch["y_ulb"], probs.shape[1]),
        }

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Let batch-norm statistics fade as in the release, if asked to."""
        super().after_step(step)
        if self.params.decay_buffers:
            for buffer in self.student.buffers():
                if buffer.is_floating_point():
                    buffer.mul_(1 - self.params.decay_buffers)
