"""Ada-CM: thresholds from the labeled images, and a contrastive loss for the faces below them (Li et al. 2022)."""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ssfer.core.settings import BelowOne
from ssfer.methods.base import Batch
from ssfer.methods.context import Context
from ssfer.methods.shared.labeled_thresholds import LabeledThresholds, ThresholdSettings
from ssfer.methods.shared.losses import confidence_mask, masked_cross_entropy, nt_xent
from ssfer.methods.shared.self_training import report
from ssfer.models.features import features_and_logits
from ssfer.models.unit_head import LinearStart, add_unit_head


class AdaCM(LabeledThresholds):
    """loss = lambda_x CE(labeled) + lambda_u masked CE(strong) + lambda_s contrastive loss of the faces not kept.

    The student labels by the mean probability of two weak views. A face is kept if its confidence reaches its class's
    threshold: `adaptive_thresholds` of the averaged network on the labeled images after each epoch. For the other faces
    the unit features of the two weak views are made similar (`nt_xent`).

    The network is the authors': dropout, then features of unit length, used by the classifier and the contrastive loss.
    The classifier starts as the fine-tuned one; theirs is random. Left out from their code: its weight decay within the
    average's update, and statistics of batch norms per view.
    """

    class Settings(ThresholdSettings):
        """Section methods.ada_cm of params.yaml."""

        threshold_views: Literal["eval", "train"] = Field(
            "train",
            description="Labeled views whose confidence sets the thresholds: eval | train, weak batches (authors).",
        )
        network: Literal["unit", "plain"] = Field(
            "unit", description="unit: dropout, then features of unit length, then the classifier | plain: unchanged."
        )
        dropout: BelowOne = Field(0.5, description="Network unit: dropout of the features.")
        classifier: LinearStart = Field(
            "keep", description="Network unit: keep: the fine-tuned one, scaled to unit length | new (authors)."
        )

    settings: Settings
    title, paper = "Ada-CM", "Li et al. 2022"
    corrections: ClassVar[tuple[str, ...]] = ("distribution_alignment", "logit_adjustment")

    def __init__(self, context: Context) -> None:
        p, student = context.settings, context.student
        if p.network == "unit":
            student = add_unit_head(student, p.dropout, p.classifier)
        super().__init__(replace(context, student=student), len(context.known().labeled))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`; monitors as in `report`, and the contrastive loss."""
        p, images = self.settings, [batch[k] for k in ("x_lb", "x_ulb_w", "x_ulb_w2", "x_ulb_s")]
        sizes = [len(view) for view in images]
        features, logits = features_and_logits(self.student, torch.cat(images))
        labeled, first, second, strong = logits.split(sizes)
        views = torch.stack([first, second]).detach().float()
        probs = self.imbalance.align(views.softmax(dim=2).mean(dim=0))
        mask, target = confidence_mask(probs, self.thresholds, "ge")
        labeled_loss = F.cross_entropy(self.imbalance.adjust(labeled), batch["y_lb"])
        unlabeled_loss = masked_cross_entropy(self.imbalance.adjust(strong), target, mask)
        _, a, b, _ = F.normalize(features.float(), dim=1).split(sizes)
        contrast = nt_xent(a, b, p.temperature, mask == 0)
        return {
            "loss": p.lambda_x * labeled_loss + p.lambda_u * unlabeled_loss + p.lambda_s * contrast,
            "contrastive_loss": contrast.detach(),
            **report(labeled_loss, unlabeled_loss, mask, target, batch["y_ulb"], probs.shape[1]),
        }
