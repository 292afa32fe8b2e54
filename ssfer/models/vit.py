"""The project's own ViT classifier and its MAE, and checked loading of pretrained weights into a classifier."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from timm.layers import resample_abs_pos_embed, trunc_normal_
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ssfer.formats.weights import load_state
from ssfer.models.features import head_keys
from ssfer.models.mae import MaskedAutoencoder
from ssfer.models.settings import MaeSettings, ModelSettings

HEAD_KEYS = {"head.weight", "head.bias"}
SIZES = ("img_size", "patch_size", "embed_dim", "depth", "num_heads")


class Classifier(VisionTransformer):  # type: ignore[misc]
    """The project's own ViT: timm's, as a class of its own because `load_encoder` treats it differently."""


def sizes(params: ModelSettings) -> dict[str, Any]:
    """Return the sizes of the project's own ViT by key."""
    return {name: getattr(params, name) for name in SIZES}


def build_classifier(params: ModelSettings, num_classes: int) -> VisionTransformer:
    """Return a plain ViT: class token, final norm, linear head; no dropout, no pooling (SSFER specification 5)."""
    model = Classifier(**sizes(params), num_classes=num_classes, norm_layer=partial(nn.LayerNorm, eps=1e-6))
    head = model.head
    assert isinstance(head, nn.Linear)
    init_head(head, params.head_init)
    return model


def init_head(head: nn.Linear, how: str) -> None:
    """Initialize a classifier: "small", almost zero, or "torch_default"."""
    if how == "small":
        trunc_normal_(head.weight, std=2e-5)
        nn.init.zeros_(head.bias)
    else:
        head.reset_parameters()


def build_mae(model: ModelSettings, pretrain: MaeSettings) -> MaskedAutoencoder:
    """Return the masked autoencoder whose encoder is the classifier's body."""
    return MaskedAutoencoder(
        **sizes(model),
        decoder_embed_dim=pretrain.decoder_embed_dim,
        decoder_depth=pretrain.decoder_depth,
        decoder_num_heads=pretrain.decoder_num_heads,
        norm_pix_loss=pretrain.norm_pix_loss,
    )


def encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of an MAE state dict that belong to the encoder."""
    return {k: v for k, v in state.items() if not k.startswith("decoder_") and k != "mask_token"}


def load_encoder(
    model: nn.Module, state: Mapping[str, Tensor], where: str = "the checkpoint is of another architecture"
) -> None:
    """Copy pretrained encoder weights into `model`; only the head keeps its initialization.

    Statistics of batch norms are part of the encoder. Decoder entries are ignored; in the project's own ViT a position
    table of another grid is resized bicubically, without a filter against aliasing, as in MAE.
    Afterwards the table is trainable, as in SSFER's stages 2 and 3.

    Args:
        model: the own ViT, or another classifier of timm's.
        state: names -> tensors.
        where: begins the message of an error.

    Raises:
        SsferError: keys or shapes of another architecture; `model` is unchanged then.
    """
    state = encoder_state(state)
    own, head = model.state_dict(), head_keys(model)
    expected = [k for k in own if k not in head]
    state = {k: v for k, v in state.items() if k not in head}
    if isinstance(model, Classifier) and "pos_embed" in state:
        position, table = state["pos_embed"], own["pos_embed"]
        patches = position.shape[1] - 1 if position.ndim == 3 else 0
        if patches > 0 and math.isqrt(patches) ** 2 == patches and position.shape[::2] == table.shape[::2]:
            grid = list(model.patch_embed.grid_size)
            state["pos_embed"] = resample_abs_pos_embed(position, new_size=grid, num_prefix_tokens=1, antialias=False)
    load_state(model, state, where, names=expected, hint="; check params section 'model'")
