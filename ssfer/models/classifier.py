"""A classifier and its weights file: the file's metadata, and how the classifier is rebuilt from the file alone.

A classifier is a network of timm's, possibly with an extension around or inside it. An extension's module has
`describe(network)`, which returns the metadata of its part ({} if the network has no such part), and
`extend(network, meta)`, which adds the part named by the metadata to a plain network, without its weights.
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
    """A classifier around one of timm's; it maps images to logits, and its two halves can be called separately."""

    @property
    def body(self) -> nn.Module:
        """The classifier of timm's inside."""

    def parts(self) -> dict[str, nn.Module]:
        """Return classifiers that use only a part of this one, by name."""

    def forward_head(self, spatial: Tensor) -> Tensor:
        """Return the logits (B, K) of what the body's `forward_features` returned."""


def body_of(network: nn.Module) -> nn.Module:
    """Return the classifier of timm's inside a network, which may be the network itself."""
    return network.body if isinstance(network, Composite) else network


def parts_of(network: nn.Module) -> dict[str, nn.Module]:
    """Return classifiers that use only a part of a network, by name; a plain classifier has none."""
    return network.parts() if isinstance(network, Composite) else {}


def metadata(kind: str, model: ModelSettings, data_fingerprint: str, recipe: str, **more: Any) -> dict[str, Any]:
    """Return the metadata of every weights file.

    Args:
        kind: "mae", "encoder" or one of KINDS.
        model: architecture and pixel statistics.
        data_fingerprint: of the training data.
        recipe: how the crops of the training data were made.
        more: further entries.
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
        TypeError: neither a classifier of timm's nor a known extension of one, so it could not be loaded.
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
        path: the file.
        model, classes, data_fingerprint: what the file must agree with; None: not checked.

    Raises:
        SsferError: not a classifier; weights of another architecture, class order or split.
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
