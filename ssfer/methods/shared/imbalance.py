"""Corrections of pseudo-labels and losses against class imbalance: formulas, and the state that two of them need.

SSFER names imbalance as its limit; these are not part of it. Each is off by default (params semisup.imbalance).

Letters: B batch, K classes, N unlabeled images, W batches in the running mean.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssfer.core.distributed import joined, of_all_processes
from ssfer.methods.context import Population, check_all_labeled
from ssfer.methods.shared.losses import confidence_mask
from ssfer.methods.shared.settings import ImbalanceSettings

WINDOW = 128  # batches in the running mean of predictions, as in ReMixMatch
NONE = ImbalanceSettings()


def class_prior(counts: Sequence[int]) -> Tensor:
    """Return the share of each class (K,) among the labeled images.

    Raises:
        SsferError: a class without a labeled image, whose share would be zero.
    """
    check_all_labeled(counts, "semisup.imbalance")
    shares = torch.tensor(counts, dtype=torch.float32)
    return shares / shares.sum()


def align_distribution(probs: Tensor, prior: Tensor, mean: Tensor) -> Tensor:
    """Return Normalize(q * p / p~) of each row (Berthelot et al. 2020, ReMixMatch, section 3.1); rows sum to one.

    Args:
        probs: predictions q (B, K).
        prior: class distribution p of the labels (K,).
        mean: running mean p~ of the predictions (K,).
    """
    aligned = probs * (prior / mean.clamp(min=1e-6))  # a class that is never predicted must not become the only one
    return aligned / aligned.sum(dim=1, keepdim=True)


def curriculum_thresholds(confident: Tensor, total: int, threshold: float | Tensor) -> Tensor:
    """Return a threshold per class (K,), lower where fewer images are predicted with confidence (FlexMatch).

    Zhang et al. 2021, sections 3.1-3.3: with sigma the number of images predicted as class c above `threshold`,
    beta = sigma / max(max_c sigma, N - sum_c sigma) (learning effect, with threshold warm-up), and the threshold is
    M(beta) * `threshold` with the convex map M(x) = x / (2 - x).

    Args:
        confident: sigma (K,).
        total: N, at least one.
    """
    most = torch.maximum(confident.max(), total - confident.sum())
    beta = confident / most
    return beta / (2 - beta) * threshold


def adjust_logits(logits: Tensor, prior: Tensor, tau: float) -> Tensor:
    """Return f(x) + tau * log(prior), (B, K): the logits of the logit-adjusted cross-entropy (Menon et al. 2021).

    Source: their equation 10. The prior is added in the loss only, so f(x), which labels and predicts, is the
    classifier for balanced classes.
    """
    return logits + tau * prior.log()


class Imbalance(nn.Module):
    """The corrections that params switch on, and their state; without any, nothing is stored or changed.

    In its forward pass a method calls `align` on the predictions of unlabeled images, `mask` on the result and
    `adjust` on the logits of its cross-entropies; once per training step `after_step`. A step's predictions are used
    from the next step on, so results do not depend on how a batch is cut over processes or passes.

    Raises:
        ValueError: something is switched on and `population` is missing.
        SsferError: a class without a labeled image.
    """

    prior: Tensor  # (K,) of the labeled images
    means: Tensor  # (W, K) mean prediction of the last W batches; the prior where there was none yet
    latest: Tensor  # (N,) class plus one of each unlabeled image's last prediction above the threshold; 0: none
    confident: Tensor  # (K + 1,) how often each value is in `latest`

    def __init__(self, settings: ImbalanceSettings = NONE, population: Population | None = None) -> None:
        super().__init__()
        self.settings = settings
        self._seen: list[Tensor] = []  # predictions of the step's batch so far
        self._labels: list[tuple[Tensor, Tensor]] = []  # indices of its images, and their new value in `latest`
        if not (settings.distribution_alignment or settings.class_thresholds or settings.logit_adjustment):
            return
        if population is None:
            raise ValueError("semisup.imbalance needs the labeled images per class and the number of unlabeled images")
        classes = len(population.labeled)
        self.register_buffer("prior", class_prior(population.labeled), persistent=False)
        if settings.distribution_alignment:
            self.register_buffer("means", self.prior.repeat(WINDOW, 1))
        if settings.class_thresholds:
            self.register_buffer("latest", torch.zeros(population.unlabeled, dtype=torch.int64))
            start = [population.unlabeled, *[0] * classes]
            self.register_buffer("confident", torch.tensor(start, dtype=torch.int64))

    def align(self, probs: Tensor, remember: bool = True) -> Tensor:
        """Return predictions of unlabeled images (B, K) with the labels' class distribution.

        `remember` is False for further predictions of the same images, which enter the running mean once.
        """
        if not self.settings.distribution_alignment:
            return probs
        if remember:
            self._seen.append(probs.detach())
        return align_distribution(probs, self.prior, self.means.mean(dim=0))

    def mask(
        self, probs: Tensor, index: Tensor | None, threshold: float | Tensor, op: str = "gt"
    ) -> tuple[Tensor, Tensor]:
        """Return what `confidence_mask` does, with a threshold per class if they are on.

        Args:
            probs: predictions of unlabeled images (B, K).
            index: their places in the data set (B,), no image twice; read only if thresholds per class are on.
            threshold, op: as there.
        """
        if not self.settings.class_thresholds:
            return confidence_mask(probs, threshold, op)
        assert index is not None
        sure, target = confidence_mask(probs, threshold, op)
        self._labels.append((index, (target + 1) * sure.long()))
        limits = curriculum_thresholds(self.confident[1:], len(self.latest), threshold)
        return confidence_mask(probs, limits, op)

    def adjust(self, logits: Tensor) -> Tensor:
        """Return the logits that enter a cross-entropy (B, K)."""
        tau = self.settings.logit_adjustment
        return adjust_logits(logits, self.prior, tau) if tau else logits

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Store the predictions of the step's batch."""
        if self._seen:
            self.means[step % WINDOW] = of_all_processes(torch.cat(self._seen)).mean(dim=0)
        if self._labels:
            index, new = joined(self._labels)
            if not self.settings.forget_unsure:
                new = torch.where(new > 0, new, self.latest[index])
            one = torch.ones_like(new)
            self.confident.index_add_(0, self.latest[index], -one).index_add_(0, new, one)
            self.latest[index] = new
        self._seen, self._labels = [], []
