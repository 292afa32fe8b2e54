"""A classifier head made of two mixtures of experts (LEAF, section 3), and networks that have one.

Letters: B batch, D features, K classes.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.core.errors import SsferError
from ssfer.models.experts import ExpertAggregation, ExpertSettings, balance_loss
from ssfer.models.features import Output, check_features, head_name


class ExpertHead(nn.Module):
    """Pooled features -> dropout -> experts -> unit length -> linear classifier -> experts on the class scores.

    Args:
        classifier: the linear map (D -> K classes).
        params: see params methods.leaf; `instance_on: feature` puts the second experts before the classifier (release).
    """

    def __init__(self, classifier: nn.Linear, params: ExpertSettings) -> None:
        super().__init__()
        # Of a method's settings, which may be more, those that describe the head: weights files carry them.
        self.params = ExpertSettings(**params.model_dump(include=set(ExpertSettings.model_fields)))
        width, classes = classifier.in_features, classifier.out_features
        self.dropout = nn.Dropout(params.dropout)
        self.semantic = self._experts(width)
        self.classifier = classifier
        self.instance = self._experts(classes if params.instance_on == "scores" else width)

    def _experts(self, dim: int) -> ExpertAggregation:
        p = self.params
        return ExpertAggregation(dim, p.experts, p.top_k, p.combine, shared=p.shared_expert, gate_init=p.gate_init)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, D) -> logits (B, K)."""
        return self.output(pooled).logits

    def output(self, pooled: Tensor) -> Output:
        """(B, D) -> logits, features of unit length (B, D) after the first experts, balance loss of both levels."""
        fused, semantic = self.semantic.aggregate(self.dropout(pooled))
        features = F.normalize(fused.float(), dim=1)
        if self.params.instance_on == "scores":
            logits, instance = self.instance.aggregate(self.classifier(features))
        else:
            seen, instance = self.instance.aggregate(features)
            logits = self.classifier(seen)
        balance = features.new_zeros(())
        if self.training and self.params.balance_coef:
            balance = self.params.balance_coef * (balance_loss(semantic) + balance_loss(instance))
        return Output(logits, features, balance)


def add_experts(network: nn.Module, params: ExpertSettings) -> nn.Module:
    """Put an `ExpertHead` in the place of a timm network's linear classifier and return the network.

    With `classifier: keep` the linear map stays, scaled by the length its features used to have, as it now sees unit
    vectors; `new` draws another.

    Raises:
        SsferError: a network of another kind, or one that has experts already.
    """
    check_features(network)
    old = cast(Any, network).get_classifier()
    if not isinstance(old, nn.Linear):
        raise SsferError(f"an expert head takes the place of a linear classifier, found {type(old).__name__}")
    linear = nn.Linear(old.in_features, old.out_features)
    if params.classifier == "keep":
        with torch.no_grad():
            linear.weight.copy_(old.weight * feature_length(network, old.in_features))
            linear.bias.copy_(old.bias if old.bias is not None else torch.zeros(old.out_features))
    parent, _, attribute = head_name(network).rpartition(".")
    setattr(network.get_submodule(parent), attribute, ExpertHead(linear, params).to(old.weight.device))
    return network


def feature_length(network: nn.Module, dim: int) -> float:
    """Return the typical length of a network's features (B, dim): told by its last LayerNorm, else sqrt(dim).

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
    """Return what a weights file says of a network's head of experts (see `ssfer.models.classifier`)."""
    head = expert_head(network)
    return {"head": {"experts": head.params.model_dump()}} if head else {}


def extend(network: nn.Module, meta: Mapping[str, Any]) -> nn.Module:
    """Return a network with the head of experts that a weights file names."""
    return add_experts(network, ExpertSettings(**meta["head"]["experts"])) if "head" in meta else network


def expert_head(network: nn.Module) -> ExpertHead | None:
    """Return a network's head of experts; None if it has another head."""
    classifier: Any = getattr(network, "get_classifier", None)
    head = classifier() if classifier else None
    return head if isinstance(head, ExpertHead) else None
