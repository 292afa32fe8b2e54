"""A classifier head on features of unit length, and functions shared by heads that replace a linear classifier.

Letters: B batch, D features, K classes.
"""

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.core.errors import SsferError
from ssfer.models.features import Output, check_features, head_name

LinearStart = Literal["keep", "new"]


class UnitHead(nn.Module):
    """Pooled features -> dropout -> unit length -> linear classifier (Ada-CM's authors' code).

    Args:
        classifier: the linear map (D -> K classes).
        dropout: probability of dropping a feature.
    """

    def __init__(self, classifier: nn.Linear, dropout: float) -> None:
        super().__init__()
        self.dropout, self.classifier = nn.Dropout(dropout), classifier

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the logits (B, K) of pooled features (B, D)."""
        return self.output(pooled).logits

    def output(self, pooled: Tensor) -> Output:
        """Return logits (B, K), features of unit length (B, D), and a balance loss of 0."""
        features = F.normalize(self.dropout(pooled.float()), dim=1)
        return Output(self.classifier(features), features, features.new_zeros(()))


def add_unit_head(network: nn.Module, dropout: float, start: LinearStart) -> nn.Module:
    """Replace a timm network's linear classifier by a `UnitHead`, in place, and return the network.

    Raises:
        SsferError: not a network of timm's with a linear classifier, or it already has such a head.
    """
    return put_head(network, UnitHead(unit_classifier(network, start), dropout))


def unit_classifier(network: nn.Module, start: LinearStart) -> nn.Linear:
    """Return a linear classifier for the network's features at unit length.

    Args:
        start: keep: the network's own, scaled by the present length of its features | new: random.

    Raises:
        SsferError: not a classifier of timm's, or it does not end in a linear map.
    """
    check_features(network)
    old = cast(Any, network).get_classifier()
    if not isinstance(old, nn.Linear):
        raise SsferError(f"this method's head takes the place of a linear classifier, found {type(old).__name__}")
    linear = nn.Linear(old.in_features, old.out_features)
    if start == "keep":
        with torch.no_grad():
            linear.weight.copy_(old.weight * feature_length(network, old.in_features))
            linear.bias.copy_(old.bias if old.bias is not None else torch.zeros(old.out_features))
    return linear


def put_head(network: nn.Module, head: nn.Module) -> nn.Module:
    """Replace a timm network's classifier by a head, in place and on its device; return the network."""
    parent, _, attribute = head_name(network).rpartition(".")
    device = next(cast(nn.Module, cast(Any, network).get_classifier()).parameters()).device
    setattr(network.get_submodule(parent), attribute, head.to(device))
    return network


def feature_length(network: nn.Module, dim: int) -> float:
    """Return the typical length of a network's features (B, dim): from its last LayerNorm, else sqrt(dim).

    A LayerNorm's output before gain g and shift b has mean square 1, so afterwards its squared length is about
    sum(g^2 + b^2).
    """
    norms = [m for m in network.modules() if isinstance(m, nn.LayerNorm) and m.normalized_shape == (dim,)]
    if not norms or norms[-1].weight is None:
        return dim**0.5
    shift = norms[-1].bias
    squares = norms[-1].weight.square().sum() + (shift.square().sum() if shift is not None else 0)
    return float(squares.detach() ** 0.5)


def describe(network: nn.Module) -> dict[str, Any]:
    """Return what a weights file says of a network's unit head (see `ssfer.models.classifier`)."""
    classifier: Any = getattr(network, "get_classifier", None)
    head = classifier() if classifier else None
    return {"head": {"unit": {"dropout": head.dropout.p}}} if isinstance(head, UnitHead) else {}


def extend(network: nn.Module, meta: Mapping[str, Any]) -> nn.Module:
    """Return a network with the unit head that a weights file names."""
    found = meta.get("head", {}).get("unit")
    return add_unit_head(network, found["dropout"], "new") if found else network
