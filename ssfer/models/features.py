"""Features and logits: one interface to any timm classifier (ViT, ResNet, ...), whatever its head.

Letters: B batch, D features, K classes.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from ssfer.core.errors import SsferError


class Output(NamedTuple):
    """Outputs of a classifier for a batch.

    Attributes:
        logits: (B, K).
        features: (B, D), the input of its last linear map.
        balance: scalar to add to the loss; 0 except for heads of experts in training (`ssfer.models.experts`).
    """

    logits: Tensor
    features: Tensor
    balance: Tensor


@runtime_checkable
class Head(Protocol):
    """A head that returns more than its logits."""

    def output(self, pooled: Tensor) -> Output:
        """Return logits and more of pooled features (B, D)."""


def full_output(module: nn.Module, images: Tensor) -> Output:
    """Return logits, features and balance of normalized images (B, 3, H, W).

    It calls the network's parts, not the network; if the network is compiled (`Module.compile`), so is this function.

    Raises:
        SsferError: the network is not a classifier of timm's.
    """
    check_features(module)
    return (_compiled() if module._compiled_call_impl else _output)(module, images)


def head_output(network: Any, spatial: Tensor) -> Output:
    """Return logits, features and balance of what the network's `forward_features` returned."""
    pooled = network.forward_head(spatial, pre_logits=True)
    head = network.get_classifier()
    return head.output(pooled) if isinstance(head, Head) else Output(head(pooled), pooled, pooled.new_zeros(()))


def features(network: nn.Module, images: Tensor) -> Tensor:
    """Return the features (B, D) of normalized images (B, 3, H, W), whatever the backbone, with gradient.

    It is a function, not a method, because some networks of timm's have a part of that name. See `features_and_logits`.

    Raises:
        SsferError: the network is not a classifier of timm's.
    """
    return full_output(network, images).features


def features_and_logits(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features (B, D) and logits (B, K) of normalized images (B, 3, H, W), in one pass, with gradient.

    The features are the input of the last linear map: pooled, after dropout; of unit length with a head of experts.

    Raises:
        SsferError: the network is not a classifier of timm's.
    """
    out = full_output(module, images)
    return out.features, out.logits


def check_features(module: nn.Module) -> None:
    """Refuse a network that cannot return its features.

    Raises:
        SsferError: it is not a classifier of timm's.
    """
    missing = [n for n in ("forward_features", "forward_head", "get_classifier") if not hasattr(module, n)]
    if missing:
        raise SsferError(
            f"this method needs features besides logits, which {type(module).__name__} cannot give (no "
            f"{', '.join(missing)}); use a classifier of timm's"
        )


def has_patch_tokens(network: Any) -> bool:
    """Return whether a network of timm's is built like its VisionTransformer: blocks on tokens, with patch tokens."""
    parts = ("blocks", "num_prefix_tokens", "patch_embed")
    return all(hasattr(network, name) for name in parts) and hasattr(network.blocks[-1], "norm1")


def head_name(network: nn.Module) -> str:
    """Return the name of the head in a classifier of timm's: "head" in a ViT, "fc" in a ResNet, or "head.fc"."""
    head = cast(Any, network).get_classifier()
    return next(name for name, module in network.named_modules() if module is head)


def head_keys(network: nn.Module) -> set[str]:
    """Return the names of the head's entries in the network's state."""
    head = f"{head_name(network)}."
    return {key for key in network.state_dict() if key.startswith(head)}


def _output(network: Any, images: Tensor) -> Output:
    return head_output(network, network.forward_features(images))


@cache
def _compiled() -> Callable[[Any, Tensor], Output]:
    return torch.compile(_output, dynamic=False)
