"""A classifier and its weights file: what the file says of it, and how it is built again from the file alone.

A classifier is a network of timm's, or more than that: an extension around or inside of it. An extension's module has
`describe(network)`, the metadata it adds to the file ({} when the network has no such part), and
`extend(network, meta)`, which adds the part that the metadata name, empty, to a plain network.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor, nn

from ssfer.core.errors import SsferError
from ssfer.formats.weights import load_state, load_weights, save_weights
from ssfer.models import expert_head, fused, unit_head
from ssfer.models.backbone import architecture, build_backbone, params_of
from ssfer.models.settings import ModelSettings

EXTENSIONS = (expert_head, unit_head, fused)
KINDS = ("classifier", fused.KIND)  # of weights that name the class of a face


@runtime_checkable
class Composite(Protocol):
    """A classifier around one of timm's; it takes images and returns logits, and does both halves of that apart."""

    @property
    def body(self) -> nn.Module:
        """The classifier of timm's inside."""

    def parts(self) -> dict[str, nn.Module]:
        """Return classifiers that use a part of this one alone, by name."""

    def forward_head(self, spatial: Tensor) -> Tensor:
        """Return the logits (B, K) of what the body's `forward_features` returned."""


def body_of(network: nn.Module) -> nn.Module:
    """Return the classifier of timm's inside a network, which may be the network itself."""
    return network.body if isinstance(network, Composite) else network


def parts_of(network: nn.Module) -> dict[str, nn.Module]:
    """Return classifiers that use a part of a network alone, by name; a plain classifier has none."""
    return network.parts() if isinstance(network, Composite) else {}


def metadata(kind: str, model: ModelSettings, data_fingerprint: str, recipe: str, **more: Any) -> dict[str, Any]:
    """Return what every weights file of a network says.

    Args:
        kind: "mae", "encoder" or one of KINDS.
        recipe: how the crops were made that it was trained on.
    """
    return {
        "kind": kind,
        "arch": architecture(model),
        "mean": list(model.mean),
        "std": list(model.std),
        "channels": "RGB",
        "crop_recipe": recipe,
        "data_fingerprint": data_fingerprint,
        **more,
    }


def save(
    path: Path,
    network: nn.Module | Mapping[str, Tensor],
    model: ModelSettings,
    classes: Sequence[str],
    *,
    data_fingerprint: str,
    recipe: str,
) -> None:
    """Write a classifier so that `load` needs nothing but the file.

    Args:
        network: the classifier, or the state dict of a plain one.
        classes: names in index order.

    Raises:
        TypeError: no classifier of timm's and no extension of one known here, so nobody could load it.
    """
    meta = {**metadata("classifier", model, data_fingerprint, recipe), "classes": list(classes)}
    if isinstance(network, nn.Module):
        if not hasattr(body_of(network), "get_classifier"):
            raise TypeError(
                f"a {type(network).__name__} is neither a classifier of timm's nor a known extension of one"
            )
        for extension in EXTENSIONS:
            meta |= extension.describe(network)
        network = network.state_dict()
    save_weights(path, network, meta)


def load(
    path: Path,
    model: ModelSettings | None = None,
    classes: Sequence[str] | None = None,
    data_fingerprint: str | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the classifier in a weights file, in training mode on the CPU, and the file's metadata.

    Args:
        model, classes, data_fingerprint: what the file must agree with; None: with anything.

    Raises:
        SsferError: no classifier; weights of another architecture, class order or split.
    """
    state, meta = load_weights(path, KINDS)
    for name, found, expected in (
        ("architecture", meta["arch"], model and architecture(model)),
        ("class order", meta["classes"], classes and list(classes)),
        ("split", meta["data_fingerprint"], data_fingerprint),
    ):
        if expected is not None and found != expected:
            raise SsferError(f"{path} was trained with another {name}: expected {expected}, found {found}")
    network = build_backbone(model or params_of(meta["arch"]), len(meta["classes"]))
    for extension in EXTENSIONS:
        network = cast(nn.Module, extension.extend(network, meta))
    load_state(network, state, str(path))
    return network, meta
