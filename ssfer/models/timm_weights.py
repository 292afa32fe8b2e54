"""Weights of a network of timm's, from a file of timm's or of others, as an encoder for `pretrain.init_from`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.models import get_pretrained_cfg
from torch import Tensor

from ssfer.core.errors import SsferError, unknown_name
from ssfer.formats.checkpoints import Checkpoint, read_checkpoint
from ssfer.formats.weights import save_weights
from ssfer.models.backbone import build_backbone
from ssfer.models.classifier import metadata
from ssfer.models.convert import PIXELS
from ssfer.models.features import head_keys, head_name
from ssfer.models.settings import ModelSettings
from ssfer.models.vit import load_encoder

COUNTER = "num_batches_tracked"  # of a batch norm; files from before PyTorch 0.4.1 have none


@dataclass(frozen=True)
class Body:
    """A network without its head.

    Args:
        source: the file.
        state: tensors of the body, by timm's names.
        dropped: tensors of the file that are not part of it -> reason.
    """

    source: Checkpoint
    model: ModelSettings
    state: dict[str, Tensor]
    dropped: dict[str, str]


def read_body(name: str, file: Path, pixels: str, entry: str | None = None) -> Body:
    """Return the body of a network of timm's from a file, whatever prefix its names have.

    Args:
        name: timm's name of the network.
        pixels: a key of `PIXELS`: how the pixels it was trained on were prepared.
        entry: which of several state dicts.

    Raises:
        SsferError: see `read_checkpoint`; tensors missing, unexpected or of another shape.
    """
    if pixels not in PIXELS:
        raise unknown_name("pixel statistics", pixels, PIXELS)
    mean, std = PIXELS[pixels]
    config = get_pretrained_cfg(name)
    side = config.input_size[-1] if config is not None else 224
    model = ModelSettings(backbone=name, img_size=side, mean=mean, std=std)
    network = build_backbone(model, 2)
    own, head = network.state_dict(), f"{head_name(network)}."
    mark = next(key for key in own if not key.startswith(head))
    source = read_checkpoint(file, entry, marks=(mark,), network=name, others=True)
    counters = {key: value for key, value in own.items() if key.endswith(COUNTER)}
    surplus = {key: "classifier's head, which an encoder has not" for key in source.state if _is_head(key, head)}
    found = {key: value for key, value in source.state.items() if key not in surplus}
    load_encoder(network, {**counters, **found}, f"{file.name} does not hold {name}")
    left_out = head_keys(network)
    state = {key: value for key, value in network.state_dict().items() if key not in left_out}
    return Body(source, model, state, surplus)


def _is_head(key: str, head: str) -> bool:
    return key.startswith((head, "head.")) or key in ("proj", "visual_projection.weight")


def write_body(out: Path, body: Body, imported: Mapping[str, Any]) -> None:
    """Write a body as weights of ssfer, atomically.

    Args:
        imported: where it comes from.
    """
    save_weights(out, body.state, metadata("encoder", body.model, "", "", imported=dict(imported)))


def check_pixels(pixels: str | None, where: str) -> str:
    """Return the pixel statistics that the user has named; SsferError if there are none."""
    if pixels is None:
        raise SsferError(
            f"{where}: a network of timm's needs the statistics its pixels were prepared with: --pixels "
            f"{' or '.join(PIXELS)}"
        )
    return pixels
