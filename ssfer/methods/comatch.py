"""CoMatch: class predictions and embeddings that teach each other through a memory and graphs (Li et al. 2021)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.config.methods import CoMatchParams
from ssfer.methods.base import Batch
from ssfer.methods.shared.imbalance import Imbalance, Population, always, known
from ssfer.methods.shared.losses import confidence_mask, graph_contrastive_loss, masked_soft_cross_entropy
from ssfer.methods.shared.self_training import SelfTraining, report
from ssfer.methods.shared.targets import Memory, pseudo_label_graph
from ssfer.models.features import features_and_logits
from ssfer.models.heads import Projection, num_features


class CoMatch(SelfTraining):
    """loss = CE(labeled) + lambda_u * masked soft cross-entropy + lambda_c * graph contrast.

    Targets are the weak view's predictions, aligned with the labels' class distribution and smoothed by those of
    similar images in the memory (equations 2 to 4); the first strong view learns them, and the two strong views'
    embeddings learn to be similar where targets are (equations 5 to 7).

    Decisions: the memory serves from the second step on, however little it holds; predictions are aligned with the
    labels' distribution as in ReMixMatch (the paper's data is balanced); the student is evaluated.
    """

    views: ClassVar[tuple[str, ...]] = ("w", "s", "s2")
    params: CoMatchParams
    corrections: ClassVar[tuple[str, ...]] = ("distribution_alignment", "logit_adjustment")

    def __init__(
        self,
        student: nn.Module,
        params: CoMatchParams,
        imbalance: Imbalance | None = None,
        population: Population | None = None,
    ) -> None:
        super().__init__(student, params, always(imbalance, population, "distribution_alignment"), population)
        self.projection = Projection(num_features(student), params.dim)
        self.memory = Memory(params.memory, params.dim, len(known(population).labeled))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`; monitors as in `report`, and the contrastive loss."""
        p, sizes = self.params, [len(batch[k]) for k in ("x_lb", "x_ulb_s", "x_ulb_s2")]
        images = torch.cat([batch["x_lb"], batch["x_ulb_s"], batch["x_ulb_s2"]])
        features, logits = features_and_logits(self.student, images)
        adjusted = self.imbalance.adjust(logits)
        labeled, first, second = self.projection(features).split(sizes)
        with torch.no_grad():
            weak_features, weak_logits = features_and_logits(self.student, batch["x_ulb_w"])
            weak = self.projection(weak_features)
            probs = self.imbalance.align(weak_logits.float().softmax(dim=1))
            target = self.memory.smooth(weak, probs, p.smoothing, p.temperature)
            truth = F.one_hot(batch["y_lb"], probs.shape[1]).to(probs)
            self.memory.note(torch.cat([weak, labeled]), torch.cat([probs, truth]))
        mask, classes = confidence_mask(target, p.threshold, p.threshold_op)
        labeled_loss = F.cross_entropy(adjusted[: sizes[0]], batch["y_lb"])
        unlabeled_loss = masked_soft_cross_entropy(adjusted.split(sizes)[1], target, mask)
        graph = pseudo_label_graph(target, p.graph_threshold)
        contrast = graph_contrastive_loss(first, second, graph, p.temperature)
        return {
            "loss": labeled_loss + p.lambda_u * unlabeled_loss + p.lambda_c * contrast,
            "contrastive_loss": contrast.detach(),
            **report(labeled_loss, unlabeled_loss, mask, classes, batch["y_ulb"], probs.shape[1]),
        }
