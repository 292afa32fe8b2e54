"""CoMatch: class predictions and embeddings regularize each other through a memory and graphs (Li et al. 2021)."""

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ssfer.core.distributed import joined
from ssfer.core.settings import Positive, Share, Temperature, Weight
from ssfer.methods.base import Batch
from ssfer.methods.context import Context
from ssfer.methods.shared.losses import confidence_mask, graph_contrastive_loss, masked_soft_cross_entropy
from ssfer.methods.shared.self_training import SelfTraining, report
from ssfer.methods.shared.settings import PseudoLabelSettings
from ssfer.methods.shared.targets import pseudo_label_graph
from ssfer.models.features import features_and_logits
from ssfer.models.heads import Projection, num_features
from ssfer.models.memory import Ring


class Memory(Ring):
    """Embeddings and predictions of the latest images: `note` them in the forward pass, to be stored after the step."""

    def smooth(self, embeddings: Tensor, probs: Tensor, share: float, temperature: float) -> Tensor:
        """Return share * probs + (1 - share) * predictions of similar images (CoMatch, equations 2 and 3); (B, C).

        The memory's predictions are weighted by softmax_k(z . z_k / temperature). An empty memory gives `probs`.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            scores = (embeddings.float() @ self.features.T / temperature).masked_fill(~self.filled, -1e9)
            smoothed = share * probs + (1 - share) * scores.softmax(dim=1) @ self.targets
        return smoothed / smoothed.sum(dim=1, keepdim=True)

    def note(self, embeddings: Tensor, probs: Tensor) -> None:
        """Note embeddings (B, D) and predictions (B, C) of the current step."""
        self._seen.append((embeddings.detach().float(), probs.detach().float()))

    def after_step(self, step: int) -> None:
        """Replace the oldest entries by those of the step's batch, the same in all processes."""
        if self._seen:
            self.push(*joined(self._seen))
        self._seen = []


class CoMatch(SelfTraining):
    """loss = CE(labeled) + lambda_u * masked soft cross-entropy + lambda_c * graph contrastive loss.

    Targets are the weak view's predictions, aligned with the labels' class distribution and smoothed by those of
    similar images in the memory (equations 2 to 4). The first strong view is trained on them, and the embeddings of the
    two strong views are made similar if the targets are (equations 5 to 7).

    Decisions: the memory is used from the second step on, however few images it holds; predictions are aligned with the
    labels' distribution as in ReMixMatch (the paper's data is balanced).
    """

    class Settings(PseudoLabelSettings):
        """Section methods.comatch of params.yaml."""

        threshold: Share = Field(0.95, description="Confidence a pseudo-label needs.")
        lambda_u: Weight = Field(1.0, description="Weight of the unlabeled loss.")
        lambda_c: Weight = Field(1.0, description="Weight of the contrastive loss between the two graphs.")
        dim: Annotated[int, Field(ge=1, le=65536)] = Field(64, description="Width of the embeddings.")
        temperature: Temperature = Field(0.2, description="Temperature of the embeddings' similarities.")
        graph_threshold: Share = Field(0.8, description="Predictions less similar than this are not connected.")
        smoothing: Share = Field(
            0.9, description="Share of a pseudo-label that is the prediction's; the rest comes from the memory."
        )
        memory: Positive = Field(320, description="Images in the memory.")

    settings: Settings
    title, paper = "CoMatch", "Li et al. 2021"
    always: ClassVar[tuple[str, ...]] = ("distribution_alignment",)
    views: ClassVar[tuple[str, ...]] = ("w", "s", "s2")
    corrections: ClassVar[tuple[str, ...]] = ("distribution_alignment", "logit_adjustment")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.projection = Projection(num_features(self.student), self.settings.dim)
        self.memory = Memory(self.settings.memory, self.settings.dim, len(context.known().labeled))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`; monitors as in `report`, and the contrastive loss."""
        p, images = self.settings, [batch[k] for k in ("x_lb", "x_ulb_s", "x_ulb_s2")]
        sizes = [len(view) for view in images]
        features, logits = features_and_logits(self.student, torch.cat(images))
        adjusted = self.imbalance.adjust(logits)
        labeled, first, second = self.projection(features).split(sizes)
        with torch.no_grad():
            weak_features, weak_logits = features_and_logits(self.student, batch["x_ulb_w"])
            weak = self.projection(weak_features)
            probs = self.imbalance.align(weak_logits.float().softmax(dim=1))
            target = self.memory.smooth(weak, probs, p.smoothing, p.temperature)
            truth = F.one_hot(batch["y_lb"], probs.shape[1]).to(probs)
            self.memory.note(torch.cat([weak, labeled]), torch.cat([probs, truth]))
        mask, classes = confidence_mask(target, p.threshold, "ge")
        labeled_loss = F.cross_entropy(adjusted[: sizes[0]], batch["y_lb"])
        unlabeled_loss = masked_soft_cross_entropy(adjusted.split(sizes)[1], target, mask)
        graph = pseudo_label_graph(target, p.graph_threshold)
        contrast = graph_contrastive_loss(first, second, graph, p.temperature)
        return {
            "loss": labeled_loss + p.lambda_u * unlabeled_loss + p.lambda_c * contrast,
            "contrastive_loss": contrast.detach(),
            **report(labeled_loss, unlabeled_loss, mask, classes, batch["y_ulb"], probs.shape[1]),
        }
