"""The networks of SIT-FER: one with unit features, which is trained, and the classifier of fused levels, the result."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.models.features import full_output, head_output
from ssfer.models.sitfer_levels import Levels, fuse

KIND = "fused"  # of weights files
LEVELS = ("semantic", "text", "instance")


class UnitFeatures(nn.Module):
    """A timm network whose features have length one: dropout, then the length (specification of SIT-FER, section 3).

    Args:
        body: network with D features and a linear head.
        dropout: of the features.
        scaled: whether the head gets features of length sqrt(D), the length after a LayerNorm, instead of one.
    """

    def __init__(self, body: nn.Module, dropout: float, scaled: bool) -> None:
        super().__init__()
        self.body, self.dropout, self.scaled = body, nn.Dropout(dropout), scaled

    @property
    def head(self) -> nn.Linear:
        """The network's own linear head."""
        head = self.body.get_classifier()  # type: ignore[operator]
        assert isinstance(head, nn.Linear)
        return head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, C) and features of length one (B, D), both float32."""
        return self._scored(full_output(self.body, images).features)

    def forward_head(self, spatial: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, given the output of the body's `forward_features`."""
        return self._scored(head_output(self.body, spatial).features)

    def _scored(self, features: Tensor) -> tuple[Tensor, Tensor]:
        unit = F.normalize(self.dropout(features.float()), dim=1)
        length = math.sqrt(unit.shape[1]) if self.scaled else 1.0
        return self.head(unit * length).float(), unit

    @torch.no_grad()
    def unseen(self, images: Tensor, eval_mode: bool) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, without gradient, in the current mode or, with `eval_mode`, without dropout."""
        training = self.training
        self.train(training and not eval_mode)
        out: tuple[Tensor, Tensor] = self(images)
        self.train(training)
        return out


def unit_projection(projection: nn.Module, features: Tensor) -> Tensor:
    """Return features (B, D) projected to the text space (B, D_t), of length one; the identity changes nothing."""
    if isinstance(projection, nn.Identity):
        return features
    return F.normalize(projection(features).float(), dim=1)


class FusedClassifier(nn.Module):
    """Network, class embeddings and memory in one: its logits are log p, p being the mean of the three levels.

    Code that evaluates, attacks or explains classifiers can use it (`ssfer.models.classifier.Composite`). Weights files
    store `settings`, from which `build` makes one without weights.

    Args:
        matrix: class embeddings (C, D_t).
        projection: D -> D_t, or the identity.
        bank, targets: stored features (M, D) and their labels (M, C); M may be 0 if its weight is.
        weights: of the levels.
    """

    matrix: Tensor
    bank: Tensor
    targets: Tensor

    def __init__(
        self,
        network: UnitFeatures,
        projection: nn.Module,
        matrix: Tensor,
        bank: Tensor,
        targets: Tensor,
        levels: Levels,
        weights: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.network, self.projection, self.levels, self.weights = network, projection, levels, weights
        self.register_buffer("matrix", matrix.detach().clone())
        self.register_buffer("bank", bank.detach().clone())
        self.register_buffer("targets", targets.detach().clone())

    def forward(self, images: Tensor) -> Tensor:
        """Return log p (B, C), whose softmax is p."""
        return self._fused(*self.network(images))

    def forward_head(self, spatial: Tensor) -> Tensor:
        """Return what `forward` does, given the output of the body's `forward_features`."""
        return self._fused(*self.network.forward_head(spatial))

    def _fused(self, logits: Tensor, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            text = self.levels.text_scores(unit_projection(self.projection, features), self.matrix).softmax(dim=1)
            instance = self.levels.instance(features, self.bank, self.targets) if self.weights[2] else None
            probs = fuse(logits.softmax(dim=1), text, instance, self.weights)
        return probs.clamp(min=torch.finfo(probs.dtype).tiny).log()

    def parts(self) -> dict[str, nn.Module]:
        """Return classifiers that use one level only, by name; they share everything with this one."""
        names = LEVELS if len(self.bank) else LEVELS[:2]
        found: dict[str, nn.Module] = {}
        for name in names:
            part = copy.copy(self)
            part.weights = (float(name == "semantic"), float(name == "text"), float(name == "instance"))
            found[name] = part
        return found

    def settings(self) -> dict[str, Any]:
        """Return what a weights file stores in addition to the body's architecture."""
        return {
            "levels": self.levels.settings(),
            "weights": list(self.weights),
            "scaled": self.network.scaled,
            "text_dim": self.matrix.shape[1],
            "slots": len(self.bank),
        }

    @classmethod
    def build(cls, body: nn.Module, settings: Mapping[str, Any]) -> FusedClassifier:
        """Return a classifier around `body` to load weights into; the inverse of `settings`."""
        network = UnitFeatures(body, 0.0, settings["scaled"])
        dim, classes, text_dim = network.head.in_features, network.head.out_features, settings["text_dim"]
        slots = settings["slots"]
        return cls(
            network,
            text_projection(dim, text_dim),
            torch.zeros(classes, text_dim),
            torch.zeros(slots, dim),
            torch.zeros(slots, classes),
            Levels(**settings["levels"]),
            (settings["weights"][0], settings["weights"][1], settings["weights"][2]),
        )

    @property
    def body(self) -> nn.Module:
        """The classifier of timm's inside."""
        return self.network.body


def describe(network: nn.Module) -> dict[str, Any]:
    """Return what a weights file says of a fused classifier (see `ssfer.models.classifier`)."""
    return {"kind": KIND, KIND: network.settings()} if isinstance(network, FusedClassifier) else {}


def extend(network: nn.Module, meta: Mapping[str, Any]) -> nn.Module:
    """Return the fused classifier that a weights file names, around a network."""
    return FusedClassifier.build(network, meta[KIND]) if KIND in meta else network


def text_projection(dim: int, text_dim: int, seed: int = 0) -> nn.Module:
    """Return the projection to the text space: the identity if the widths agree, else a linear map without bias."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Identity() if dim == text_dim else nn.Linear(dim, text_dim, bias=False)
