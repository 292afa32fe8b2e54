"""Sections of params.yaml that describe networks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ssfer.core.settings import Layers, Positive, Section, Side, Text, Triple

OWN_BACKBONE = "vit"  # the project's own ViT, which the sizes in section `model` describe


class ModelSettings(Section):
    """The network and how its images are normalized."""

    backbone: Text = Field(
        "vit",
        description="vit: the project's own, of the sizes below | a network of timm's, such as resnet18 | your own "
        "./file.py:Name.",
    )
    img_size: Side = Field(32, description="Network input (paper: 224).")
    patch_size: Positive = Field(
        4, description="Side of a patch; as embed_dim, depth and num_heads for backbone vit only (paper: 16)."
    )
    embed_dim: Positive = Field(96, description="Width of the tokens (paper: 768).")
    depth: Layers = Field(4, description="Number of blocks (paper: 12).")
    num_heads: Positive = Field(4, description="Attention heads (paper: 12).")
    mean: Triple = Field((0.588, 0.459, 0.402), description="Mean of faces, from the release; RGB, pixels in 0..1.")
    std: Triple = Field((0.228, 0.202, 0.19), description="Standard deviations, as `mean`.")
    head_init: Literal["small", "torch_default"] = Field(
        "small", description="small: truncated normal, std 2e-5; torch_default: the authors' code."
    )

    @model_validator(mode="after")
    def _check(self) -> ModelSettings:
        if not all(0 <= m <= 1 for m in self.mean) or not all(0 < s <= 1 for s in self.std):
            raise ValueError(
                f"mean must lie in 0..1 and std in 0..1 and be positive, for pixels in 0..1; found mean {self.mean}, "
                f"std {self.std} (values of pixels in 0..255 are divided by 255)"
            )
        if self.backbone != OWN_BACKBONE:
            return self
        if self.img_size % self.patch_size:
            raise ValueError(f"img_size {self.img_size} is not a multiple of patch_size {self.patch_size}")
        if self.embed_dim % self.num_heads or self.embed_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} must be a multiple of num_heads {self.num_heads} and of 4")
        return self


class MaeSettings(Section):
    """The masked autoencoder's decoder and loss."""

    norm_pix_loss: bool = Field(True, description="Standardize the target per patch (false: authors' code).")
    decoder_embed_dim: Positive = Field(64, description="Width of the decoder's tokens (paper: 512).")
    decoder_depth: Layers = Field(1, description="Number of the decoder's blocks (paper: 8).")
    decoder_num_heads: Positive = Field(4, description="Attention heads of the decoder (paper: 16).")
