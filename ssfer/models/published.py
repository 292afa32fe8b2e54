"""Published weights that rows of the paper's tables start from, for `ssfer fetch`: timm's ImageNet networks, MAE's ViT.

The paper does not say which files its baselines started from; these are timm's own defaults for each network.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssfer.core.download import Keep, Published
from ssfer.core.errors import SsferError
from ssfer.formats.checkpoints import read_checkpoint
from ssfer.models.convert import convert, write_imported
from ssfer.models.timm_weights import read_body, write_body
from ssfer.models.vit_sizes import VIT_SIZES

FOLDER = Path("data/weights/imported")
# name for `ssfer fetch` = timm's name of the network -> tag of the weights, size of the file
TIMM = {
    "mobilenetv2_100": ("ra_in1k", "about 14 MB"),
    "mobilenetv3_large_100": ("ra_in1k", "about 22 MB"),
    "resnet18": ("a1_in1k", "about 47 MB"),
    "resnet50": ("a1_in1k", "about 102 MB"),
    "vgg11": ("tv_in1k", "about 531 MB"),
    "vgg13": ("tv_in1k", "about 532 MB"),
    "vit_tiny_patch16_224": ("augreg_in21k_ft_in1k", "about 23 MB"),
    "vit_small_patch16_224": ("augreg_in21k_ft_in1k", "about 88 MB"),
    "vit_base_patch16_224": ("augreg2_in21k_ft_in1k", "about 346 MB"),
    "vit_large_patch16_224": ("augreg_in21k_ft_in1k", "about 1.2 GB"),
}


def address(tag: str) -> str:
    """Return the address of timm's weights on the Hugging Face Hub."""
    return f"https://huggingface.co/timm/{tag}/resolve/main/model.safetensors"


def keep_network(name: str) -> Keep:
    """Return a function that writes published weights of a network of timm's as an encoder for `pretrain.init_from`."""

    def keep(file: Path, out: Path, origin: Mapping[str, Any]) -> str:
        write_body(out, read_body(name, file, "half" if name.startswith("vit") else "imagenet"), origin)
        return _wrote(out, name)

    return keep


def keep_encoder(pixels: str, size: str = "base") -> Keep:
    """Return a function that converts a published ViT to an encoder of the project's own ViT.

    Args:
        pixels: as in `write_imported`.
        size: a key of `VIT_SIZES`.
    """

    def keep(file: Path, out: Path, origin: Mapping[str, Any]) -> str:
        source = read_checkpoint(file)
        weights, wanted = convert(source, "encoder", num_heads=VIT_SIZES[size].num_heads), VIT_SIZES[size].embed_dim
        if weights.arch["embed_dim"] != wanted:
            raise SsferError(f"{file.name} holds a ViT of width {weights.arch['embed_dim']}, expected {wanted}")
        write_imported(out, weights, source, pixels=pixels, origin=origin)
        return _wrote(out, "vit")

    return keep


def _wrote(out: Path, backbone: str) -> str:
    return f"wrote {out} (model.backbone {backbone}); rows of `ssfer experiments` that start from it can run"


def _published(url: str, size: str, license: str, keep: Keep) -> Published:
    return Published(sha256="", size=size, license=license, keep=keep, folder=FOLDER, most=2**31, url=url)


PUBLISHED = {
    **{
        name: _published(
            address(f"{name}.{tag}"), size, "Apache-2.0 or BSD-3 (timm); trained on ImageNet", keep_network(name)
        )
        for name, (tag, size) in TIMM.items()
    },
    "vit_base_imagenet21k": _published(
        address("vit_base_patch16_224.augreg_in21k"),
        "about 410 MB",
        "Apache-2.0 (timm); trained on ImageNet-21k",
        keep_encoder("half"),
    ),
    "mae_pretrain_vit_base": _published(
        "https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth",
        "about 343 MB",
        "CC BY-NC 4.0 (Meta's MAE); trained on ImageNet-1k",
        keep_encoder("imagenet"),
    ),
}
