"""Which unlabeled images count, how much, and when: rules that several methods share.

Running means are updated once per step and used from the next step on, as in `ssfer.methods.shared.imbalance`, so
results do not depend on how a batch is cut over processes or passes.

Letters: B batch, K classes.
"""

import math

import torch
from torch import Tensor, nn

from ssfer.core.distributed import of_all_processes
from ssfer.methods.shared.counts import class_counts
from ssfer.methods.shared.imbalance import align_distribution

N_SIGMA = 2.0  # how many times narrower SoftMatch's Gaussian is than the standard deviation of the confidences


class Clock(nn.Module):
    """The share of a run that is done.

    Args:
        total: training steps of the run; 0: not known, the share is then 1.
    """

    steps: Tensor

    def __init__(self, total: int) -> None:
        super().__init__()
        self.total = total
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def share(self) -> Tensor:
        """Share of the steps done, a scalar from 0 to 1."""
        return (self.steps / self.total).clamp(max=1) if self.total else torch.ones_like(self.steps).float()

    def after_step(self, step: int) -> None:
        """Note that a step is done."""
        self.steps.fill_(step + 1)


def linear_rampup(done: Tensor, share: float) -> Tensor:
    """Return how far a weight has risen: 0 at the start, 1 from `share` of the run on, a straight line in between."""
    return (done / share).clamp(max=1) if share else torch.ones_like(done)


def sigmoid_rampup(done: Tensor, share: float) -> Tensor:
    """Return exp(-5 (1 - t)^2), t rising from 0 to 1 at `share` of the run (Laine and Aila 2017, appendix A)."""
    return (-5 * (1 - linear_rampup(done, share)) ** 2).exp()


def annealing_limit(done: Tensor, num_classes: int, schedule: str) -> Tensor:
    """Return the probability above which labeled images are left out at this point of a run, a scalar.

    Xie et al. 2020 (UDA), training signal annealing: eta = a (1 - 1/K) + 1/K; a is t ("linear"), 1 - exp(-5 t) ("log")
    or exp(5 (t - 1)) ("exp"), t the share of the run. "none": infinite, none is left out.
    """
    if schedule == "none":
        return torch.full_like(done, math.inf)
    rises = {"linear": done, "log": 1 - (-5 * done).exp(), "exp": (5 * (done - 1)).exp()}
    return rises[schedule] * (1 - 1 / num_classes) + 1 / num_classes


class Running(nn.Module):
    """Running means of predictions of unlabeled images: `note` them in the forward pass; one update per step.

    Args:
        decay: of the running means.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._seen: list[Tensor] = []

    def note(self, probs: Tensor) -> None:
        """Note predictions (B, K) of the current step."""
        self._seen.append(probs.detach().float())

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Update by the predictions of the step's batch, the same in all processes."""
        if self._seen:
            self.move(of_all_processes(torch.cat(self._seen)))
        self._seen = []

    def move(self, probs: Tensor) -> None:
        """Update the running means by predictions (B, K)."""
        raise NotImplementedError

    def _toward(self, mean: Tensor, new: Tensor) -> None:
        mean.mul_(self.decay).add_(new, alpha=1 - self.decay)


class SelfAdaptiveThresholds(Running):
    """FreeMatch's thresholds per class (Wang et al. 2023, "self-adaptive thresholding"); all start at 1/K.

    The global threshold is the running mean of the confidence, a class's is its running mean probability divided by
    the largest one, times the global. `histogram` (h~) is for `ssfer.methods.shared.losses.fairness_loss`.
    """

    confidence: Tensor  # tau_t, a scalar
    mean: Tensor  # p~_t (K,)
    histogram: Tensor  # h~_t (K,)

    def __init__(self, num_classes: int, decay: float) -> None:
        super().__init__(decay)
        self.register_buffer("confidence", torch.tensor(1 / num_classes))
        for name in ("mean", "histogram"):
            self.register_buffer(name, torch.full((num_classes,), 1 / num_classes))

    def thresholds(self) -> Tensor:
        """Return tau_t(c) (K,)."""
        return self.mean / self.mean.max() * self.confidence

    def move(self, probs: Tensor) -> None:
        """See `Running.move`."""
        confidence, target = probs.max(dim=1)
        self._toward(self.confidence, confidence.mean())
        self._toward(self.mean, probs.mean(dim=0))
        self._toward(self.histogram, class_counts(target, probs.shape[1]) / len(probs))


class TruncatedGaussian(Running):
    """SoftMatch's weights (Chen et al. 2023, section 3): 1 above the mean confidence, a Gaussian below.

    lambda(p) = exp(-min(max(UA(p)) - mu, 0)^2 / (2 (sigma / n)^2)), with UA(p) = Normalize(p * (1/K) / mean of p)
    (uniform alignment). mu starts at 1/K, sigma^2 at 1, the mean at that of the first batch, as in the released code;
    n is 2 as there, 1 in the equation.
    """

    mu: Tensor  # running mean of the aligned confidence, a scalar
    variance: Tensor  # and its running unbiased variance
    mean: Tensor  # running mean of the predictions (K,); 1/K before the first
    started: Tensor  # whether there was a batch, a scalar
    uniform: Tensor  # (K,)

    def __init__(self, num_classes: int, decay: float) -> None:
        super().__init__(decay)
        self.register_buffer("mu", torch.tensor(1 / num_classes))
        self.register_buffer("variance", torch.tensor(1.0))
        self.register_buffer("mean", torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("started", torch.tensor(False))
        self.register_buffer("uniform", torch.full((num_classes,), 1 / num_classes), persistent=False)

    def _confidence(self, probs: Tensor) -> Tensor:
        return align_distribution(probs, self.uniform, self.mean).max(dim=1).values

    def weights(self, probs: Tensor) -> Tensor:
        """Return the weight (B,) of each prediction (B, K), from above 0 to 1."""
        below = (self._confidence(probs.detach()) - self.mu).clamp(max=0)
        return (-(below**2) * N_SIGMA**2 / (2 * self.variance)).exp()

    def move(self, probs: Tensor) -> None:
        """See `Running.move`; a single prediction has no spread and counts as variance 0."""
        now = probs.mean(dim=0)
        self.mean.copy_(torch.where(self.started, self.mean, now))
        self.started.fill_(True)
        confidence = self._confidence(probs)
        self._toward(self.mu, confidence.mean())
        self._toward(self.variance, confidence.var(correction=min(1, len(probs) - 1)))
        self._toward(self.mean, now)
