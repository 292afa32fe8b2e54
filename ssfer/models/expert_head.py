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
        params: see params methods.leaf; `instance_on: feature` puts the second mixture before the classifier (release).
    """

    def __init__(self, classifier: nn.Linear, params: ExpertSettings) -> None:
        super().__init__()
        # Only those settings of the method that describe the head: weights files store them.
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
        """Return the logits (B, K) of pooled features (B, D)."""
        return self.output(pooled).logits

    def output(self, pooled: Tensor) -> Output:
        """Return logits (B, K), unit features after the first mixture (B, D), and the balance loss of both mixtures."""
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
    """Replace a timm network's linear classifier by an `ExpertHead`, in place, and return the network.

    With `classifier: keep` the linear map stays and is scaled by the former length of its features, because it now gets
    unit vectors; with `new` it is random.

    Raises:
        SsferError: not a network of timm's with a linear classifier, or it already has experts.
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
