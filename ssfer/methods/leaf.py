"""LEAF: mixtures of experts and ambiguous pseudo-labels (arXiv 2404.15041; for its release see params methods.leaf).

Letters: B unlabeled images a step, K classes, D features, N labeled images.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ssfer.core.settings import BelowOne
from ssfer.methods.base import Batch
from ssfer.methods.context import Context
from ssfer.methods.shared.ambiguous import AmbiguousPseudoLoss, AmbiguousSettings, check_classes, number_of_classes
from ssfer.methods.shared.labeled_thresholds import LabeledThresholds, ThresholdSettings
from ssfer.methods.shared.losses import nt_xent
from ssfer.methods.shared.self_training import report
from ssfer.models.expert_head import add_experts
from ssfer.models.experts import ExpertSettings
from ssfer.models.features import full_output


class LEAF(LabeledThresholds):
    """The student's mean prediction for two weak views gives several likely classes as target of the strong view.

    loss = lambda_x CE(labeled) + lambda_u L_u + lambda_s L_s + balance of the experts. L_u: `AmbiguousPseudoLoss` of
    the images whose confidence reaches their class's threshold; L_s: `nt_xent` between the weak views of the others.
    All images of a step go through the student together. L_s, the balance and the scale of L_u are computed over the
    images that a process trains on at once.
    """

    class Settings(ThresholdSettings, ExpertSettings, AmbiguousSettings):
        """Section methods.leaf of params.yaml."""

        decay_buffers: BelowOne = Field(
            0.0, description="Share of batch-norm statistics lost each step (release: 0.00001)."
        )

    settings: Settings
    title, paper = "LEAF", "arXiv 2404.15041"

    def __init__(self, context: Context) -> None:
        """Put the experts into the student.

        Raises:
            SsferError: a student without features, or of fewer classes than a pseudo-label may name.
        """
        num_classes = number_of_classes(context.student)
        super().__init__(replace(context, student=add_experts(context.student, context.settings)), num_classes)
        check_classes(self.settings, num_classes)
        self.pseudo_loss = AmbiguousPseudoLoss(self.settings)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`; monitors as in `report`, and the contrastive and the balance loss."""
        p, n = self.settings, len(batch["x_lb"])
        views = [batch[key] for key in ("x_lb", "x_ulb_w", "x_ulb_w2", "x_ulb_s")]
        out = full_output(self.student, torch.cat(views))
        z_x, (z_a, z_b, z_s) = out.logits[:n], out.logits[n:].chunk(3)
        q_a, q_b, _ = out.features[n:].chunk(3)

        a, b = z_a.detach().float(), z_b.detach().float()
        probs = self.imbalance.align((a.softmax(dim=1) + b.softmax(dim=1)) / 2)
        # As in the release: the class is that of the mean probabilities, the ambiguous target that of the mean logits.
        ambiguous = self.imbalance.align(((a + b) / 2).softmax(dim=1), remember=False)
        mask, target = self.imbalance.mask(probs, batch.get("idx_ulb"), self.thresholds, "ge")

        labeled_loss = F.cross_entropy(self.imbalance.adjust(z_x), batch["y_lb"])
        unlabeled_loss = self.pseudo_loss(self.imbalance.adjust(z_s), target, mask, ambiguous)
        contrastive_loss = nt_xent(q_a, q_b, p.temperature, mask == 0)
        loss = p.lambda_x * labeled_loss + p.lambda_u * unlabeled_loss + p.lambda_s * contrastive_loss + out.balance
        return {
            "loss": loss,
            "contrastive_loss": contrastive_loss.detach(),
            "balance_loss": out.balance.detach(),
            **report(labeled_loss, unlabeled_loss, mask, target, batch["y_ulb"], probs.shape[1]),
        }

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Shrink batch-norm statistics as in the release, if `decay_buffers` is set."""
        super().after_step(step)
        if self.settings.decay_buffers:
            for buffer in self.student.buffers():
                if buffer.is_floating_point():
                    buffer.mul_(1 - self.settings.decay_buffers)
