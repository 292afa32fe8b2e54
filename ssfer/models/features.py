"""One way to the features of any timm classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def features_and_logits(module: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return features (B, D) before the head and logits (B, K) of a timm network, in one pass.

    The features are what the head sees: for a ViT the class token after the final norm.
    """
    features = module.forward_head(module.forward_features(images), pre_logits=True)
    return features, module.get_classifier()(features)
