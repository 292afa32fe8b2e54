"""The contract of a backbone of the user's own: a classifier that `model.backbone` names as `./net.py:Net`."""

import re
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from ssfer.core.registry import Registry
from ssfer.core.settings import Section


class Backbone(nn.Module, ABC):
    """Images (B, 3, H, W) -> logits (B, K), with timm's interface of classifiers.

    A subclass takes `num_classes` and `img_size` (pixels), first calls `super().__init__(num_classes, num_features)`,
    and has `forward_features`. One that does not end in a mean over a feature map also has its own `forward_head`.

    Args:
        num_classes: K.
        num_features: D, channels of the feature map and inputs of the head.
    """

    class Settings(Section):
        """None: sizes are those of the class, so that a weights file needs no more than its name."""

    def __init__(self, num_classes: int, num_features: int) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, num_features
        self.head = nn.Linear(num_features, num_classes)

    @abstractmethod
    def forward_features(self, images: Tensor) -> Tensor:
        """Return the feature map (B, D, h, w) of normalized images (B, 3, H, W)."""

    def get_classifier(self) -> nn.Module:
        """Return the head, whose input is the features."""
        return self.head

    def forward_head(self, spatial: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (B, K) of a feature map, or with `pre_logits` the features (B, D)."""
        pooled = spatial.mean(dim=(2, 3))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K)."""
        return self.forward_head(self.forward_features(images))


_OWN = re.compile(r"[\w./-]+\.py(:\w+)?|\w+(\.\w+)*:\w+")  # not timm's hf-hub:owner/name, which would download
BACKBONES: Registry[Any] = Registry("backbone", "ssfer.models", Backbone, "ssfer.backbones")


def is_own(name: str) -> bool:
    """Return whether a backbone is neither the project's ViT nor a network of timm's."""
    return bool(_OWN.fullmatch(name)) or name in BACKBONES
