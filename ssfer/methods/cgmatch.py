"""CGMatch: also learn from uncertain images that keep getting one class (Cheng et al., CVPR 2025; arXiv 2503.02231).

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
    """Return how much more often each image got its most frequent class than the second (B,), from counts (B, K)."""
    first, second = counts.topk(2, dim=1).values.unbind(dim=1)
    return first - second


def generalized_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return (1 - p^q) / q of the probability p of each target class (B,); bounded, so a wrong target costs less."""
    p = logits.softmax(dim=1).gather(1, target[:, None])[:, 0]
    return (1 - p**Q) / Q


class TrainingDynamics(nn.Module):
    """Count the classes that each unlabeled image got; keep running means of confidence and count-gap.

    Args:
        classes: K.
        images: N.
        decay: of the running means, which start with the first batch's values.
    """

    counts: Tensor  # (N, K) int32, how often an image got a class
    probs: Tensor  # running mean of the predictions (K,)
    confidence: Tensor  # of the largest aligned probability, a scalar
    gap: Tensor  # of the count-gap, a scalar
    started: Tensor  # whether a batch was seen, a scalar

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
        """Store a batch until the step ends; return its count-gaps (B,).

        Args:
            places: index of each image (B,).
            probs: predictions (B, K).
            confidence: largest aligned probability (B,).
            got: predicted class, one-hot (B, K), int32.
        """
        gaps = count_gaps(self.counts[places] + got)
        self._seen.append((places, probs.detach(), confidence, got, gaps))
        return gaps

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Add the step's batches of all processes to the counts and running means."""
        if self._seen:
            places, probs, confidence, got, gaps = joined(self._seen)
            self.counts.index_add_(0, places, got)
            news = probs.mean(dim=0), confidence.mean(), gaps.float().mean()
            for mean, new in zip((self.probs, self.confidence, self.gap), news, strict=True):
                mean.copy_(torch.where(self.started, self.decay * mean + (1 - self.decay) * new, new))
            self.started.fill_(True)
        self._seen = []


class CGMatch(SelfTraining):
    """FixMatch whose threshold is the mean confidence; below it, images with a high count-gap get a milder loss.

    With t the completed share of the run, each term a mean over the batch:
    loss = CE(labeled) + lambda_u CE(strong), confidence >= its running mean
         + lambda_h t^2 (GCE(weak) + GCE(strong)), below it, count-gap >= its running mean.
    Decisions: fine-tuning is the warm-up. The running means start with the first batch's values (authors' code: 1/K and
    the mean gap of all images after the warm-up) and are updated after the step. Classes are counted from the start of
    the stage; the authors' buffer of the last 1,000 counts its empty entries as class 0. q is Zhang and Sabuncu's.
    """

    class Settings(UnlabeledSettings):
        """Section methods.cgmatch of params.yaml."""

        lambda_u: Weight = Field(1.0, description="Weight of the confident images.")
        lambda_h: Weight = Field(1.0, description="Final weight of the uncertain images with a high count-gap.")
        decay: Share = Field(0.99, description="Decay of the running means (paper: 0.999).")
        align: Literal["uniform", "labels", "none"] = Field(
            "uniform",
            description="Target of distribution alignment: uniform (paper, for balanced classes) | labels: the labeled "
            "images' class shares | none.",
        )

    settings: Settings
    title, paper = "CGMatch", "Cheng et al. 2025"
    targets: ClassVar[tuple[str, ...]] = ()
    corrections: ClassVar[tuple[str, ...]] = ("logit_adjustment",)
    drawn_to: Tensor  # target distribution of the alignment (K,)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        known, classes = context.known(), len(context.known().labeled)
        even = torch.full((classes,), 1 / classes)
        drawn_to = class_prior(known.labeled) if self.settings.align == "labels" else even
        self.register_buffer("drawn_to", drawn_to, persistent=False)
        self.dynamics = TrainingDynamics(classes, known.unlabeled, self.settings.decay)
        self.clock = Clock(context.steps)
        self._unsure: list[Tensor] = []  # of the current batch: weak views' logits, uncertain images used, classes

    def label_logits(self, weak: Tensor) -> Tensor:
        """See `SelfTraining.label_logits`; gradients also flow through the weak views."""
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
        """See `SelfTraining.extra_loss`: the loss of the uncertain images with a high count-gap."""
        (weak, mild, target), self._unsure = self._unsure, []
        both = sum(generalized_cross_entropy(v, target) for v in (self.imbalance.adjust(weak), logits))
        return self.settings.lambda_h * self.clock.share**2 * (mild * both).mean()
