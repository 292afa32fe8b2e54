"""CCSSL: FixMatch and a contrastive loss that uses predicted classes only if they are confident (Yang et al. 2022)."""

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ssfer.core.settings import Share, Temperature, Weight
from ssfer.methods.base import Batch
from ssfer.methods.context import Context
from ssfer.methods.shared.losses import confidence_mask, masked_cross_entropy, weighted_contrastive_loss
from ssfer.methods.shared.self_training import SelfTraining, report
from ssfer.methods.shared.settings import PseudoLabelSettings
from ssfer.methods.shared.targets import class_pair_weights
from ssfer.models.features import features_and_logits
from ssfer.models.heads import Projection, num_features


class CCSSL(SelfTraining):
    """FixMatch's loss + lambda_c * class-aware contrastive loss of the two strong views' embeddings.

    The positives of a confident image (from `push_threshold` on) are the confident images of its class, weighted by
    both confidences; those of other images are only their own other view.

    As in the authors' code, an image's other view has weight 1, and weights are normalized per image. The paper adds
    CCSSL to several methods; here it is added to FixMatch, its main one.
    """

    class Settings(PseudoLabelSettings):
        """Section methods.ccssl of params.yaml."""

        threshold: Share = Field(0.95, description="Confidence a pseudo-label needs.")
        lambda_u: Weight = Field(1.0, description="Weight of the unlabeled loss.")
        lambda_c: Weight = Field(1.0, description="Weight of the contrastive loss.")
        dim: Annotated[int, Field(ge=1, le=65536)] = Field(64, description="Width of the embeddings.")
        temperature: Temperature = Field(0.07, description="Temperature of the embeddings' similarities.")
        push_threshold: Share = Field(
            0.9, description="Confidence from which a predicted class is used in the contrastive loss."
        )

    settings: Settings
    title, paper = "CCSSL", "Yang et al. 2022"
    views: ClassVar[tuple[str, ...]] = ("w", "s", "s2")
    corrections: ClassVar[tuple[str, ...]] = ("distribution_alignment", "logit_adjustment")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.projection = Projection(num_features(self.student), self.settings.dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`; monitors as in `report`, and the contrastive loss."""
        p, images = self.settings, [batch[k] for k in ("x_lb", "x_ulb_s", "x_ulb_s2")]
        sizes = [len(view) for view in images]
        probs = self.imbalance.align(self.label_logits(batch["x_ulb_w"]).float().softmax(dim=1))
        mask, target = confidence_mask(probs, p.threshold, "ge")
        features, logits = features_and_logits(self.student, torch.cat(images))
        labeled, strong, _ = self.imbalance.adjust(logits).split(sizes)
        labeled_loss = F.cross_entropy(labeled, batch["y_lb"])
        unlabeled_loss = masked_cross_entropy(strong, target, mask)
        _, first, second = self.projection(features).split(sizes)
        weights = class_pair_weights(probs, p.push_threshold)
        contrast = weighted_contrastive_loss(first, second, weights, p.temperature)
        return {
            "loss": labeled_loss + p.lambda_u * unlabeled_loss + p.lambda_c * contrast,
            "contrastive_loss": contrast.detach(),
            **report(labeled_loss, unlabeled_loss, mask, target, batch["y_ulb"], probs.shape[1]),
        }
