"""SIT-FER: classifier, class sentences and a memory of labeled faces give the pseudo-labels (arXiv 2503.18463)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ssfer.core.settings import BelowOne, NonNegative, Positive, Section, Share, Temperature, Weight
from ssfer.methods.base import Batch
from ssfer.methods.context import Context
from ssfer.methods.shared.contrastive import memory_contrastive_loss
from ssfer.methods.shared.losses import masked_cross_entropy
from ssfer.methods.shared.self_training import SelfTraining, kept_share, report
from ssfer.methods.shared.settings import PseudoLabelSettings
from ssfer.models.fused import FusedClassifier, UnitFeatures, text_projection, unit_projection
from ssfer.models.memory import InstanceMemory
from ssfer.models.sentences import TextSettings
from ssfer.models.sitfer_levels import Levels, fuse
from ssfer.models.text import build_text

Shares = tuple[Weight, Weight, Weight]  # of the semantic, text and instance level


class LevelWeights(Section):
    """Weights of the semantic, text and instance level; only their ratios count."""

    before: Shares = Field((1.0, 1.0, 0.0), description="Weights in the first memory.start_epoch epochs.")
    training: Shares = Field((1.0, 1.0, 1.0), description="Weights in training after them.")
    test: Shares = Field((1.0, 1.0, 1.0), description="Weights when the network is tested.")

    @model_validator(mode="after")
    def _check(self) -> LevelWeights:
        for weights in (self.before, self.training, self.test):
            if not sum(weights[:2]):
                raise ValueError("the semantic or the text weight must be above 0, as the memory may not be in use yet")
        if self.before[2]:
            raise ValueError("the instance weight of 'before' must be 0: the memory is not in use then")
        return self


class MemorySettings(Section):
    """The instance memory: features of labeled faces."""

    rule: Literal["softmax_knn", "class_max"] = Field(
        "softmax_knn",
        description="softmax_knn: labels weighted by similarity | class_max: most similar face of each class.",
    )
    tau: Temperature = Field(0.1, description="Rule softmax_knn: temperature of the cosines.")
    neighbors: Positive | None = Field(
        None, description="Rule softmax_knn: use only this many faces, the most similar ones; null: all."
    )
    start_epoch: NonNegative = Field(2, description="Epochs before the memory is used (paper: 15).")
    unlabeled_slots: NonNegative = Field(
        0, description="Also store this many unlabeled faces above the threshold, the latest; 0: none."
    )
    init: Literal["pass", "lazy"] = Field(
        "pass", description="pass: all labeled faces are stored before training | lazy: when a batch has them."
    )
    contrastive_tau: Temperature = Field(
        0.07, description="Temperature of the contrastive loss, whose weight is lambda_c."
    )
    refresh: bool = Field(
        True, description="Store all labeled faces anew before each evaluation, from their evaluation views."
    )


class SITFER(SelfTraining):
    """The confident classes of the mixture of three levels are the student's targets on the strong view.

    loss = lambda_s CE(labeled) + lambda_t CE(cosine to the sentences / tau, labeled) + lambda_u CE(strong, class), and
    + lambda_c times the contrastive loss of labeled faces with the memory. A step's features are used from the next
    step on, so results do not depend on how a batch is cut.

    Raises:
        ValueError: without `population`.
        SsferError: what `build_text` refuses; a class without a labeled face, which the memory could not predict.
    """

    class Settings(PseudoLabelSettings):
        """Section methods.sitfer of params.yaml."""

        threshold: Share = Field(0.75, description="Confidence a pseudo-label needs, of the mixture of three levels.")
        threshold_op: Literal["gt", "ge"] = Field("gt", description="gt: above the threshold; ge: also equal to it.")
        lambda_s: Weight = Field(0.4, description="Weight of the labeled loss.")
        lambda_t: Weight = Field(0.4, description="Weight of the loss on labeled faces' similarity to the sentences.")
        lambda_u: Weight = Field(0.2, description="Weight of the unlabeled loss.")
        lambda_c: Weight = Field(
            0.0,
            description="Weight of the contrastive loss of labeled faces with the memory; 0: none.",
        )
        lu_norm: Literal["selected", "batch"] = Field(
            "selected",
            description="Unlabeled loss: selected: mean over the faces above the threshold | batch: over all.",
        )
        dropout: BelowOne = Field(0.5, description="Dropout of the features, which are then scaled to length one.")
        classifier_input: Literal["unit", "scaled"] = Field(
            "scaled",
            description="scaled: features as long as a LayerNorm leaves them, so finetune's head fits | unit (paper).",
        )
        pseudo_eval_mode: bool = Field(False, description="true: no dropout where a face gets its pseudo-label.")
        fusion: Literal["probabilities", "scores"] = Field(
            "probabilities",
            description="What is mixed in training: probabilities | scores, then one softmax (their code).",
        )
        weights: LevelWeights = Field(default_factory=LevelWeights)
        text: TextSettings = Field(default_factory=TextSettings)
        memory: MemorySettings = Field(default_factory=MemorySettings)

        @model_validator(mode="after")
        def _check(self) -> SITFER.Settings:
            if self.fusion == "scores" and self.memory.rule != "class_max":
                raise ValueError("fusion scores needs memory.rule class_max: softmax_knn has probabilities only")
            return self

    settings: Settings
    title, paper = "SIT-FER", "arXiv 2503.18463"
    labeled_pass_views = "eval"
    student: UnitFeatures
    epochs: Tensor  # () int64, whole epochs trained
    shares: Tensor  # (2, 3) weights of the levels before the memory is used, and after

    def __init__(self, context: Context) -> None:
        known, p = context.complete("methods.sitfer's memory"), context.settings
        network = UnitFeatures(context.student, p.dropout, p.classifier_input == "scaled")
        super().__init__(replace(context, student=network))
        memory = p.memory
        dim, classes = network.head.in_features, network.head.out_features
        self.levels = Levels(p.text.tau, memory.tau, memory.rule, memory.neighbors)
        self.text = build_text(p.text, known.classes)
        self.projection = text_projection(dim, self.text().shape[1], p.text.seed)
        self.memory = InstanceMemory(sum(known.labeled), memory.unlabeled_slots, dim, classes)
        self.average_memory: InstanceMemory | None = None
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))
        self.register_buffer("shares", torch.tensor([p.weights.before, p.weights.training]), persistent=False)
        self.lr_scales = dict.fromkeys(("text.", "projection."), p.text.lr_scale)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`; needs idx_lb, with unlabeled slots also idx_ulb."""
        p, labeled, y = self.settings, len(batch["x_lb"]), batch["y_lb"]
        weak_logits, weak = self.student.unseen(batch["x_ulb_w"], p.pseudo_eval_mode)
        matrix = self.text()
        logits, features = self.student(torch.cat([batch["x_lb"], batch["x_ulb_s"]]))
        embedded = unit_projection(self.projection, features[:labeled])
        with torch.autocast(logits.device.type, enabled=False):
            text_loss = F.cross_entropy(self.levels.text_scores(embedded, matrix), y)
            probs = self.imbalance.align(self.label_probs(weak_logits, weak, matrix))
        mask, target = self.imbalance.mask(probs, batch.get("idx_ulb"), p.threshold, p.threshold_op)
        logits = self.imbalance.adjust(logits)
        labeled_loss = F.cross_entropy(logits[:labeled], y)
        unlabeled_loss = masked_cross_entropy(logits[labeled:], target, mask)
        if p.lu_norm == "selected":
            unlabeled_loss = unlabeled_loss / kept_share(mask)
        loss = p.lambda_s * labeled_loss + p.lambda_t * text_loss + p.lambda_u * unlabeled_loss
        further = {}
        if p.lambda_c:
            bank = self.memory.features, self.memory.targets, self.memory.filled
            contrast = memory_contrastive_loss(features[:labeled], y, batch["idx_lb"], bank, p.memory.contrastive_tau)
            loss, further = loss + p.lambda_c * contrast, {"contrastive_loss": contrast.detach()}
        self.memory.note(batch["idx_lb"], features[:labeled], y)
        if self.memory.unlabeled:
            self.memory.note_unlabeled(batch["idx_ulb"], weak, probs, mask)
        return {
            "loss": loss,
            "text_loss": text_loss.detach(),
            **further,
            **report(labeled_loss, unlabeled_loss, mask, target, batch["y_ulb"], probs.shape[1]),
        }

    @torch.no_grad()
    def label_probs(self, logits: Tensor, features: Tensor, matrix: Tensor) -> Tensor:
        """Return the mixture (B, C) of the three levels with the current weights."""
        memory, weights = self.memory, self.weights_now()
        text = self.levels.text_scores(unit_projection(self.projection, features), matrix)
        bank = (features, memory.features, memory.targets, memory.filled)
        if self.settings.fusion == "scores":
            return fuse(logits, text, self.levels.instance_scores(*bank), weights).softmax(dim=1)
        return fuse(logits.softmax(dim=1), text.softmax(dim=1), self.levels.instance(*bank), weights)

    def weights_now(self) -> Tensor:
        """Return the training weights (3,); the memory has none before all labeled faces are in it."""
        before, later = self.shares
        chosen = torch.where(self.epochs >= self.settings.memory.start_epoch, later, before)
        return torch.cat([chosen[:2], chosen[2:] * self.memory.ready])

    @torch.no_grad()
    def labeled_pass(self, epoch: int, labeled: Iterable[Batch]) -> None:
        """Note the epoch; fill the memories from the evaluation views, at the start and before every evaluation."""
        self.epochs.fill_(epoch)
        filled: list[tuple[InstanceMemory, nn.Module]] = []
        if self.settings.memory.init == "pass" if epoch == 0 else self.settings.memory.refresh:
            filled.append((self.memory, self.student))
        if self.average is not None and self.average_memory is not None:
            filled.append((self.average_memory, self.average.module))
        for batch in labeled if filled else ():
            for memory, network in filled:
                memory.fill(network, [batch])

    def keep_average(self, decay: float) -> None:
        """See `SemiSupervised.keep_average`; the average has a memory of its own features."""
        super().keep_average(decay)
        memory = self.memory
        self.average_memory = InstanceMemory(memory.first, 0, memory.features.shape[1], memory.targets.shape[1])

    def called(self) -> list[nn.Module]:
        """See `Method.called`."""
        return [self.student, self.text, self.projection]

    def networks(self) -> dict[str, nn.Module]:
        """Return the current fused classifiers instead of the student and its average."""
        average = {}
        if self.average is not None and self.average_memory is not None:
            average = {"average": self._fused(cast(UnitFeatures, self.average.module), self.average_memory)}
        return {"student": self.eval_module(), **average}

    def eval_module(self) -> nn.Module:
        """Return the fused classifier with the current sentences and memory, never the classifier alone."""
        return self._fused(self.student, self.memory)

    @torch.no_grad()
    def _fused(self, network: UnitFeatures, memory: InstanceMemory) -> FusedClassifier:
        stored, (semantic, text, instance) = memory.stored(), self.settings.weights.test
        weights = (semantic, text, instance if len(stored[0]) else 0.0)
        fused = FusedClassifier(network, self.projection, self.text(), *stored, self.levels, weights)
        return fused.train(network.training)
