"""The inputs of a training run: the plan, and the callbacks at the end of epochs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from ssfer.core.progress import Cost
from ssfer.data.batches import StepBatches
from ssfer.methods.base import Batch, Method
from ssfer.train.metrics_history import Row


@dataclass(frozen=True)
class TrainingPlan:
    """What is trained, on which batches, and how.

    Attributes:
        method: trained in place.
        optimizer: over the method's parameters.
        batches: the training steps; `len` is the total.
        lr_at: learning rate as a function of the epoch (a float).
        seed: of what is drawn within a step.
        mean, std: per channel, for pixels in 0..1; images are normalized with them.
        label: name of the run in the progress line.
        cost: floating-point operations of an image and of the devices, to show the utilization.
    """

    method: Method
    optimizer: torch.optim.Optimizer
    batches: StepBatches
    lr_at: Callable[[float], float]
    seed: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    label: str
    cost: Cost | None = None

    @property
    def images_per_step(self) -> int:
        """Number of samples of a step, over all streams and processes."""
        return sum(stream.batch_size for stream in self.batches.streams)


class Watcher(Protocol):
    """Inspects a method every `every` epochs without changing it, and returns metrics that are only logged."""

    every: int

    def __call__(self, method: Method, epoch: int) -> Mapping[str, float]:
        """Inspect the method; all processes call it together, and what the first one returns is logged."""


class EpochLogger(Protocol):
    """Records metrics; it has no influence on training."""

    def log_epoch(self, epoch: int, values: Mapping[str, float | None]) -> None:
        """Record one epoch's metrics."""


@dataclass(frozen=True)
class Callbacks:
    """Callbacks at the end of epochs.

    Attributes:
        evaluate: returns metrics on the validation part for the history, `val_accuracy` and `val_loss` among them;
            the epoch where they are best is kept (`Progression.keep_best`).
        eval_every: epochs between evaluations; the last epoch is always evaluated.
        labeled_batches: epoch -> batches of the labeled images; for methods that declare `labeled_pass_views`.
        watch: called after every `watch.every` epochs and after the last.
        tracker: records each epoch.
    """

    evaluate: Callable[[Method], Row] | None = None
    eval_every: int = 1
    labeled_batches: Callable[[int], Iterable[Batch]] | None = None
    watch: Watcher | None = None
    tracker: EpochLogger | None = None
