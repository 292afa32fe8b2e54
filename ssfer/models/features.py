"""Features besides logits: one interface to any timm classifier (ViT, ResNet, ...), whatever its head.

Letters: B batch, D features, K classes.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from ssfer.core.errors import SsferError


class Output(NamedTuple):
    """What a classifier says of a batch.

    Attributes:
        logits: (B, K).
        features: (B, D) that its last linear map sees.
        balance: scalar to add to the loss; 0 but for heads of experts in training (`ssfer.models.experts`).
    """

    logits: Tensor
    features: Tensor
    balance: Tensor


@runtime_checkable
class Head(Protocol):
    """A head that knows more than its logits."""

    def output(self, pooled: Tensor) -> Output:
        """Return logits and more of pooled features (B, D)."""


def full_output(module: nn.Module, images: Tensor) -> Output:
    """Return logits, features and balance of normalized images (B, 3, H, W).

    It does not call the network itself; where that call is compiled (`Module.compile`), this is compiled as well.

    Raises:
        SsferError: a network that is no classifier of timm's.
    """
    check_features(module)
    return (_compiled() if module._compiled_call_impl else _output)(module, images)


def head_output(network: Any, spatial: Tensor) -> Output:
    """Return logits, features and balance of what the network's `forward_features` returned."""
    pooled = network.forward_head(spatial, pre_logits=True)
    head = network.get_classifier()
    return head.output(pooled) if isinstance(head, Head) else Output(head(pooled), pooled, pooled.new_zeros(()))


def features(network: nn.Module, images: Tensor) -> Tensor:
    """Return the features (B, D) of normalised images (B, 3, H, W), whatever the backbone, with gradient.

    A function and no method, as some networks of timm's have a part of that name. See `features_and_logits`.

    Raises:
        SsferError: a network that is no classifier of timm's.
    """
    return full_output(network, images).features


def features_and_logits(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features (B, D) and logits (B, K) of normalised images (B, 3, H, W), in one pass, with gradient.

    The features are what the last linear map sees: pooled, after dropout; of unit length with a head of experts.

    Raises:
        SsferError: a network that is no classifier of timm's.
    """
    out = full_output(module, images)
    return out.features, out.logits


def check_features(module: nn.Module) -> None:
    """Refuse a network that cannot say its features.

    Raises:
        SsferError: it is no classifier of timm's.
    """
    missing = [n for n in ("forward_features", "forward_head", "get_classifier") if not hasattr(module, n)]
    if missing:
        raise SsferError(
            f"this method needs features besides logits, which {type(module).__name__} cannot give (no "
            f"{', '.join(missing)}); use a classifier of timm's"
        )


def has_patch_tokens(network: Any) -> bool:
    """Return whether a network of timm's is built as its VisionTransformer: blocks of tokens, some of them patches."""
    parts = ("blocks", "num_prefix_tokens", "patch_embed")
    return all(hasattr(network, name) for name in parts) and hasattr(network.blocks[-1], "norm1")


def head_name(network: nn.Module) -> str:
    """Return what a classifier of timm's calls its head: "head" in a ViT, "fc" in a ResNet, or "head.fc"."""
    head = cast(Any, network).get_classifier()
    return next(name for name, module in network.named_modules() if module is head)


def head_keys(network: nn.Module) -> set[str]:
    """Return the names of the head's entries in the network's state."""
    return {key for key in network.state_dict() if key.startswith(f"{head_name(network)}.")}


def _output(network: Any, images: Tensor) -> Output:
    return head_output(network, network.forward_features(images))


@cache
def _compiled() -> Callable[[Any, Tensor], Output]:
    return torch.compile(_output, dynamic=False)
