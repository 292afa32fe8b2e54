"""Projections that methods apply to a classifier's features, besides its own head."""

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.models.features import check_features


def num_features(network: nn.Module) -> int:
    """Return D, the number of inputs of a classifier's last linear map.

    Raises:
        SsferError: the network is not a classifier of timm's.
    """
    check_features(network)
    head = cast(Any, network).get_classifier()
    return [m for m in head.modules() if isinstance(m, nn.Linear)][-1].in_features


class Projection(nn.Module):
    """Features (B, D) -> unit vectors (B, E) through one hidden layer of D with a leaky ReLU (CoMatch, section 4)."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.LeakyReLU(0.1), nn.Linear(dim, out))

    def forward(self, features: Tensor) -> Tensor:
        """Return the unit vectors, float32."""
        return F.normalize(self.layers(features).float(), dim=1)
