"""A classifier head made of two mixtures of experts (LEAF, section 3), and networks that have one.

Letters: B batch, D features, K classes.
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.models.experts import ExpertAggregation, ExpertSettings, balance_loss
from ssfer.models.features import Output
from ssfer.models.unit_head import put_head, unit_classifier


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
    return put_head(network, ExpertHead(unit_classifier(network, params.classifier), params))


def describe(network: nn.Module) -> dict[str, Any]:
    """Return what a weights file says of a network's head of experts (see `ssfer.models.classifier`)."""
    head = expert_head(network)
    return {"head": {"experts": head.params.model_dump()}} if head else {}


def extend(network: nn.Module, meta: Mapping[str, Any]) -> nn.Module:
    """Return a network with the head of experts that a weights file names."""
    found = meta.get("head", {}).get("experts")
    return add_experts(network, ExpertSettings(**found)) if found else network


def expert_head(network: nn.Module) -> ExpertHead | None:
    """Return a network's head of experts; None if it has another head."""
    classifier: Any = getattr(network, "get_classifier", None)
    head = classifier() if classifier else None
    return head if isinstance(head, ExpertHead) else None
