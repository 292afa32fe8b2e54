"""Predictions of a classifier on batches."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def predictions(module: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return class probabilities (N, K), float64, and labels (N,) of all batches, in eval mode and on the CPU."""
    training = module.training
    module.eval()
    found = [(module(batch["x_lb"]).double().softmax(dim=1).cpu(), batch["y_lb"].cpu()) for batch in batches]
    module.train(training)
    probs, labels = zip(*found, strict=True)
    return torch.cat(probs), torch.cat(labels)
