"""Predictions of a classifier on batches."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def predictions(module: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return class probabilities (N, K), float64, and labels (N,) of all batches, in eval mode and on the CPU."""
    training = module.training
    module.eval()
    # Copied to the CPU at the end: a copy in between would wait for the device, which then waits for the next batch.
    found = [(module(batch["x_lb"]).double().softmax(dim=1), batch["y_lb"]) for batch in batches]
    module.train(training)
    probs, labels = zip(*found, strict=True)
    return torch.cat(probs).cpu(), torch.cat(labels).cpu()
