"""Conversion of published ViT weights: recognized by their tensors, checked name by name, written as safetensors.

It reads the official MAE checkpoints (encoder only, with decoder, fine-tuned), those of the SSFER authors, timm's ViTs,
our own weights and any other file with this layout, as PyTorch file or safetensors. All tensors are named as in timm's
VisionTransformer, the decoder's as in the MAE release. What no tensor tells is never guessed: the number of heads is
known for the published widths only, and a classifier needs its class names and its pixel statistics.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from ssfer.core.errors import SsferError, unknown_name
from ssfer.formats.checkpoints import MARKS, Checkpoint
from ssfer.formats.vit_names import fold_scales, refuse_clip
from ssfer.formats.weights import check_tensors, listed, save_weights
from ssfer.models.mae import MaskedAutoencoder, sincos_position
from ssfer.models.vit import HEAD_KEYS, SIZES, encoder_state

KINDS = ("mae", "encoder", "classifier")
# Mean and standard deviation of RGB in 0..1 with which pixels were prepared.
PIXELS: Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # the MAE release
    "ssfer": ((0.588, 0.459, 0.402), (0.228, 0.202, 0.190)),  # faces, SSFER specification 4
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
# Attention heads by width in the MAE release. Widths 192 and 384 have 12 heads in SSFER's release, 3 and 6 in timm.
_HEADS = {768: 12, 1024: 16, 1280: 16}
_DECODER_HEADS = {512: 16, 192: 6, 96: 3}  # MAE release; SSFER's small and tiny
_POSITIONS = ("pos_embed", "decoder_pos_embed")


@dataclass(frozen=True)
class Imported:
    """A complete state dict in our naming, and what was done to the source's tensors.

    Args:
        arch: img_size, patch_size, embed_dim, depth, num_heads.
        decoder: embed_dim, depth, num_heads; None without decoder.
        dropped: name of a tensor that was left out -> reason.
        missing: name of a tensor that the source lacks -> what it starts at.
        resized: image size that the source's position tables were made for; None if they were not resized.
    """

    kind: str
    state: dict[str, Tensor]
    arch: dict[str, int]
    decoder: dict[str, int] | None
    dropped: dict[str, str]
    missing: dict[str, str]
    resized: int | None = None

    @property
    def positions(self) -> str:
        """Return the kind of position embedding: "sin-cos" (the fixed table) or "learned"."""
        grid = self.arch["img_size"] // self.arch["patch_size"]
        fixed = sincos_position(self.arch["embed_dim"], grid)
        return "sin-cos" if torch.allclose(self.state["pos_embed"], fixed, atol=1e-4) else "learned"


def convert(
    checkpoint: Checkpoint,
    kind: str = "auto",
    *,
    num_heads: int | None = None,
    decoder_num_heads: int | None = None,
    resize_to: int | None = None,
) -> Imported:
    """Return a checkpoint in our naming, float32.

    Args:
        kind: "mae" (with decoder), "encoder", "classifier", or "auto": the most that the tensors allow.
        num_heads, decoder_num_heads: attention heads, which no tensor tells; None: as published for this width.
        resize_to: side in pixels of the model's input; tables of positions are resized bicubically. None: unchanged.

    Raises:
        SsferError: tensors missing, unexpected or of another shape, or unknown number of heads.
    """
    if kind not in (*KINDS, "auto"):
        raise unknown_name("kind of weights", kind, (*KINDS, "auto"))
    found, where = dict(checkpoint.state), str(checkpoint.path)
    if kind == "auto":
        decoding = any(name.startswith("decoder_") for name in found)
        kind = "classifier" if "head.weight" in found else "mae" if decoding else "encoder"
    dropped = {key: _REASONS[part] for key in found if kind == "encoder" and (part := _surplus(key))}
    found = {key: value.float() for key, value in found.items() if key not in dropped}
    dropped |= fold_scales(found)
    refuse_clip(found, where)
    known = checkpoint.meta.get("arch") or {}
    arch = _architecture(found, where, num_heads or known.get("num_heads"))
    decoder = None
    if kind == "mae":
        known = checkpoint.meta.get("decoder") or {}
        decoder = _decoder(found, where, decoder_num_heads or known.get("num_heads"))
    expected = _expected(arch, decoder)
    if kind == "classifier":
        rows = _shape(found, "head.weight", 2, where)[0]
        expected |= {"head.weight": (rows, arch["embed_dim"]), "head.bias": (rows,)}
    missing = {}
    if kind == "encoder" and "fc_norm.weight" in dropped and "norm.weight" not in found:
        for name, value in (("norm.weight", 1.0), ("norm.bias", 0.0)):
            found[name] = torch.full(expected[name], value)
            missing[name] = f"starts at {value:g}: the file normalizes the average of the patches instead"
    surplus = found.keys() - expected.keys()
    hint = "; its body alone is read with --kind encoder" if surplus & {"fc_norm.weight", *HEAD_KEYS} else ""
    check_tensors(found, expected, f"{where}, as {kind}", hint)
    resized = None
    if resize_to is not None and resize_to != arch["img_size"]:
        if resize_to < 1 or resize_to % arch["patch_size"]:
            raise SsferError(f"{where}: expected an image size of whole {arch['patch_size']} px patches: {resize_to}")
        resized, arch = arch["img_size"], {**arch, "img_size": resize_to}
        grid = [resize_to // arch["patch_size"]] * 2
        for name in found.keys() & set(_POSITIONS):
            found[name] = resample_abs_pos_embed(found[name], new_size=grid, num_prefix_tokens=1, antialias=False)
    return Imported(kind, {name: found[name] for name in expected}, arch, decoder, dropped, missing, resized)


def write_imported(
    path: Path,
    weights: Imported,
    source: Checkpoint,
    *,
    classes: Sequence[str] | None = None,
    pixels: str | None = None,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write safetensors with metadata, atomically; return the metadata.

    Args:
        classes: names in index order; required for a classifier of others.
        pixels: a key of `PIXELS`; None: those of our own file, else not known, which a classifier refuses.
        origin: of a downloaded file, to be stored beside its name and hash.

    Raises:
        SsferError: class names or pixel statistics are missing, or the number of names is not that of the head's rows.
    """
    if pixels is not None and pixels not in PIXELS:
        raise unknown_name("pixel statistics", pixels, PIXELS)
    mean, std = PIXELS[pixels] if pixels else (source.meta.get("mean"), source.meta.get("std"))
    meta: dict[str, Any] = {
        "kind": weights.kind,
        "arch": weights.arch,
        "mean": mean and list(mean),
        "std": std and list(std),
        "channels": "RGB",
        "crop_recipe": source.meta.get("crop_recipe"),
        "data_fingerprint": source.meta.get("data_fingerprint"),
        "imported": {**origin_of(source), **(origin or {})},
        **({"decoder": weights.decoder} if weights.decoder else {}),
    }
    if weights.resized:
        meta["imported"]["resized_from"] = weights.resized
    if weights.kind == "classifier":
        meta["classes"] = _checked_classes(classes or source.meta.get("classes"), weights, source)
        if mean is None:
            raise SsferError(
                f"{source.path}: a classifier needs the statistics its pixels were prepared with: "
                f"--pixels {' or '.join(PIXELS)} (the authors' checkpoints: ssfer)"
            )
    save_weights(path, weights.state, meta)
    return meta


def origin_of(source: Checkpoint) -> dict[str, Any]:
    """Return the entry about the source file in the metadata of imported weights."""
    return {"file": source.path.name, "sha256": source.sha256, "entry": source.entry}


def _checked_classes(classes: Sequence[str] | None, weights: Imported, source: Checkpoint) -> list[str]:
    rows = len(weights.state["head.bias"])
    if classes is None:
        raise SsferError(
            f"{source.path}: its head has {rows} classes and no names for them; give them in index order with "
            "--classes, or take the body alone with --kind encoder"
        )
    if len(classes) != rows or len(set(classes)) != rows:
        raise SsferError(
            f"{source.path}: expected {rows} different class names, found {len(classes)}: {listed(classes)}"
        )
    return list(classes)


_REASONS = {
    "decoder": "part of the decoder, which an encoder has not",
    "head": "classifier's head, which an encoder has not",
    "pooler": "map behind the class token, which an encoder has not",
    "fc_norm": "norm of the average of the patches, which an encoder has not",
}


def _surplus(name: str) -> str | None:
    """Return which part of a larger model a tensor belongs to; None: to the encoder, or unknown."""
    if name == "mask_token" or name.startswith("decoder_"):
        return "decoder"
    part = name.partition(".")[0]
    return part if part in _REASONS else None


def _architecture(state: Mapping[str, Tensor], where: str, heads: int | None) -> dict[str, int]:
    dim = _shape(state, MARKS[0], 3, where)[2]
    patch = _shape(state, "patch_embed.proj.weight", 4, where)[2]
    positions = _shape(state, "pos_embed", 3, where)[1] - 1
    if positions < 1 or isqrt(positions) ** 2 != positions:
        raise SsferError(f"{where}: expected positions of a square of patches and a class token, found {positions + 1}")
    heads = _heads(dim, heads or _HEADS.get(dim), where, "--num-heads")
    depth = _count(state, "blocks")
    if not depth:
        raise SsferError(f"{where} is of another architecture: expected blocks.0, blocks.1, ..., found no block")
    return dict(zip(SIZES, (isqrt(positions) * patch, patch, dim, depth, heads), strict=True))


def _decoder(state: Mapping[str, Tensor], where: str, heads: int | None) -> dict[str, int]:
    if not any(name.startswith("decoder_") for name in state):
        raise SsferError(f"{where} has no decoder: expected the tensors of a whole MAE; import it with --kind encoder")
    dim = _shape(state, "decoder_embed.weight", 2, where)[0]
    heads = _heads(dim, heads or _DECODER_HEADS.get(dim), where, "--decoder-num-heads")
    return {"embed_dim": dim, "depth": _count(state, "decoder_blocks"), "num_heads": heads}


def _heads(dim: int, heads: int | None, where: str, option: str) -> int:
    if heads is None:
        raise SsferError(
            f"{where} is {dim} wide, for which no number of attention heads is established; say it with {option} "
            "(SSFER's tiny and small encoders: 12; timm's: 3 and 6)"
        )
    if heads < 1 or dim % heads or dim % 4:
        raise SsferError(f"{where}: its width {dim} must be a multiple of 4 and of the number of heads, found {heads}")
    return heads


def _count(state: Mapping[str, Tensor], part: str) -> int:
    """Return how many different blocks there are; a gap in their numbers shows as missing tensors."""
    return len({m[1] for name in state if (m := re.match(rf"{part}\.(\d+)\.", name))})


def _shape(state: Mapping[str, Tensor], name: str, ndim: int, where: str) -> tuple[int, ...]:
    if name not in state:
        raise SsferError(f"{where} is of another architecture: expected a tensor {name}, found {listed(state)}")
    shape = tuple(state[name].shape)
    if len(shape) != ndim or 0 in shape:
        raise SsferError(f"{where} is of another architecture: expected {name} with {ndim} dimensions, found {shape}")
    return shape


def _expected(arch: Mapping[str, int], decoder: Mapping[str, int] | None) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors of the MAE, or of its encoder; needs no memory for them."""
    with torch.device("meta"):
        small = decoder or {"embed_dim": 4, "depth": 0, "num_heads": 1}
        sizes: dict[str, Any] = {**arch, **{f"decoder_{name}": size for name, size in small.items()}}
        model = MaskedAutoencoder(**sizes)
    state = model.state_dict()
    return {name: tuple(v.shape) for name, v in (state if decoder else encoder_state(state)).items()}
