"""Sizes of the paper's ViTs; profiles/vit_*.yaml and the tables' catalogue repeat them, and a test compares."""

from collections.abc import Mapping
from typing import NamedTuple


class VitSize(NamedTuple):
    """Width of the tokens, number of blocks, attention heads of each block."""

    embed_dim: int
    depth: int
    num_heads: int


# With 16-pixel patches of 224-pixel images (SSFER specification, section 5). The authors' release has 12 heads in the
# tiny and small ones, where timm's have 3 and 6; parameters and multiply-accumulates do not tell.
VIT_SIZES: Mapping[str, VitSize] = {
    "tiny": VitSize(192, 12, 12),
    "small": VitSize(384, 12, 12),
    "base": VitSize(768, 12, 12),
    "large": VitSize(1024, 24, 16),
}
