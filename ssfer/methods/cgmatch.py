"""CGMatch: unsure images teach, too, if they keep getting the same class (Cheng et al., CVPR 2025, arXiv 2503.02231).

Letters: B batch, K classes, N unlabeled images.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ssfer.core.distributed import joined
from ssfer.core.settings import Share, Weight
from ssfer.methods.context import Context
from ssfer.methods.shared.imbalance import align_distribution, class_prior
from ssfer.methods.shared.self_training import Predictions, SelfTraining
from ssfer.methods.shared.settings import UnlabeledSettings
from ssfer.methods.shared.thresholds import Clock

Q = 0.7  # of the generalized cross-entropy (Zhang and Sabuncu 2018)


def count_gaps(counts: Tensor) -> Tensor:
    """Return how much more often each image got its commonest class than its second (B,), from counts (B, K)."""
    first, second = counts.topk(2, dim=1).values.unbind(dim=1)
    return first - second


def generalized_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return (1 - p^q) / q of the probability p of each target class (B,): bounded, so a wrong class costs less."""
    p = logits.softmax(dim=1).gather(1, target[:, None])[:, 0]
    return (1 - p**Q) / Q


class TrainingDynamics(nn.Module):
    """Which classes each unlabeled image got so far, and running means of confidence and count-gap.

    Args:
        classes: K.
        images: N.
        decay: of the running means, which start as the first batch's.
    """

    counts: Tensor  # (N, K) int32, how often an image got a class
    probs: Tensor  # running mean of the predictions (K,)
    confidence: Tensor  # of the largest aligned probability, a scalar
    gap: Tensor  # of the count-gap, a scalar
    started: Tensor  # whether there was a batch, a scalar

    def __init__(self, classes: int, images: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("counts", torch.zeros(images, classes, dtype=torch.int32))
        self.register_buffer("probs", torch.full((classes,), 1 / classes))
        self.register_buffer("confidence", torch.zeros(()))
        self.register_buffer("gap", torch.zeros(()))
        self.register_buffer("started", torch.tensor(False))
        self._seen: list[tuple[Tensor, ...]] = []

    def note(self, places: Tensor, probs: Tensor, confidence: Tensor, got: Tensor) -> Tensor:
        """Take down what a batch got: images (B,), predictions, aligned confidence and classes (B, K); return gaps."""
        gaps = count_gaps(self.counts[places] + got)
        self._seen.append((places, probs.detach(), confidence, got, gaps))
        return gaps

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Remember the step's batch, in all processes alike."""
        if self._seen:
            places, probs, confidence, got, gaps = joined(self._seen)
            self.counts.index_add_(0, places, got)
            for mean, new in ((self.probs, probs.mean(dim=0)), (self.confidence, confidence.mean())):
                self._toward(mean, new)
            self._toward(self.gap, gaps.float().mean())
            self.started.fill_(True)
        self._seen = []

    def _toward(self, mean: Tensor, new: Tensor) -> None:
        mean.copy_(torch.where(self.started, self.decay * mean + (1 - self.decay) * new, new))


class CGMatch(SelfTraining):
    """FixMatch whose threshold is the mean confidence; below it, images with a high count-gap teach mildly.

    With t the share of the run that is over, each mean over the batch:
    loss = CE(labeled) + lambda_u CE(strong), confidence >= its running mean
         + lambda_h t^2 (GCE(weak) + GCE(strong)), below it, count-gap >= its running mean.
    Decisions: fine-tuning is the warm-up; running means start as the first batch's (authors' code: 1/K, and the mean
    gap of all images after the warm-up) and move after the step; classes are counted from the start of the stage, where
    the authors' memory of the last 1,000 counts its empty places as class 0; q is Zhang and Sabuncu's.
    """

    class Settings(UnlabeledSettings):
        """Section methods.cgmatch of params.yaml."""

        lambda_u: Weight = Field(1.0, description="Weight of the confident images.")
        lambda_h: Weight = Field(1.0, description="Weight of the unsure images with a high count-gap, at the end.")
        decay: Share = Field(0.99, description="Decay of the running means (paper: 0.999).")
        align: Literal["uniform", "labels", "none"] = Field(
            "uniform",
            description="What the predictions' distribution is drawn to: uniform, as the paper for even classes | the "
            "labels' | none.",
        )

    settings: Settings
    title, paper = "CGMatch", "Cheng et al. 2025"
    targets: ClassVar[tuple[str, ...]] = ()
    corrections: ClassVar[tuple[str, ...]] = ("logit_adjustment",)
    drawn_to: Tensor  # (K,)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        known, classes = context.known(), len(context.known().labeled)
        even = torch.full((classes,), 1 / classes)
        drawn_to = class_prior(known.labeled) if self.settings.align == "labels" else even
        self.register_buffer("drawn_to", drawn_to, persistent=False)
        self.dynamics = TrainingDynamics(classes, known.unlabeled, self.settings.decay)
        self.clock = Clock(context.steps)
        self._unsure: list[Tensor] = []  # of the batch under way: logits of the weak views, who teaches mildly, classes

    def label_logits(self, weak: Tensor) -> Tensor:
        """See `SelfTraining.label_logits`; the weak views learn as well."""
        logits: Tensor = self.student(weak)
        self._unsure = [logits]
        return logits.detach()

    def select(self, found: Predictions) -> tuple[Tensor, Tensor]:
        """See `SelfTraining.select`."""
        assert found.places is not None
        seen, probs = self.dynamics, found.probs
        aligned = probs if self.settings.align == "none" else align_distribution(probs, self.drawn_to, seen.probs)
        confidence, target = aligned.max(dim=1)
        sure, least = confidence >= seen.confidence, seen.gap.clone()
        gaps = seen.note(found.places, probs, confidence, nn.functional.one_hot(target, probs.shape[1]).int())
        self._unsure += [~sure & (gaps >= least), target]
        return sure.float(), target

    def extra_loss(self, logits: Tensor, mask: Tensor) -> Tensor:
        """See `SelfTraining.extra_loss`: what the unsure images with a high count-gap add."""
        (weak, mild, target), self._unsure = self._unsure, []
        both = sum(generalized_cross_entropy(v, target) for v in (self.imbalance.adjust(weak), logits))
        return self.settings.lambda_h * self.clock.share**2 * (mild * both).mean()
