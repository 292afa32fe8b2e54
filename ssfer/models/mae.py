"""Masked autoencoder (He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022), on timm's blocks.

Written from the paper and the SSFER specification, section 6. State-dict keys are those of the published MAE
checkpoints. Letters: B batch, N patches, D embedding, p patch side; mask is 1 where a patch was removed.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn


class MaeOutput(NamedTuple):
    """loss: scalar; pred: (B, N, p*p*3) in target space; mask: (B, N), 1 = removed."""

    loss: Tensor
    pred: Tensor
    mask: Tensor


def masked_patch_mse(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over masked patches of the mean squared pixel error (He et al. 2022, section 3).

    Args:
        pred, target: (B, N, P).
        mask: (B, N), 1 = removed (counts), 0 = visible (ignored).
    """
    error = ((pred - target) ** 2).mean(dim=-1)
    return (error * mask).sum() / mask.sum()


def visible(patches: int, mask_ratio: float) -> int:
    """Return how many patches the encoder sees."""
    return int(patches * (1 - mask_ratio) + 1e-6)  # 1 - 0.9 is a little less than 0.1


def sincos_position(dim: int, grid: int) -> Tensor:
    """Return the fixed 2-D sine-cosine table (1, 1 + grid*grid, dim), a zero row for the class token first.

    The first half of the channels encodes the column, the second half the row; each half is [sin, cos] of
    position * 10000^(-i / (dim/4)).
    """
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angle = torch.arange(grid, dtype=torch.float64)[:, None] * omega  # (grid, dim/4)
    half = torch.cat([angle.sin(), angle.cos()], dim=1)  # (grid, dim/2)
    column = half.repeat(grid, 1)  # patch order is row by row
    row = half.repeat_interleave(grid, dim=0)
    table = torch.cat([torch.zeros(1, dim, dtype=torch.float64), torch.cat([column, row], dim=1)])
    return table[None].float()


class MaskedAutoencoder(nn.Module):
    """ViT encoder on the visible patches, light decoder that predicts the pixels of the removed ones.

    Args:
        img_size, patch_size: pixels; the image is square.
        embed_dim, depth, num_heads: encoder.
        decoder_embed_dim, decoder_depth, decoder_num_heads: decoder.
        norm_pix_loss: targets are standardized per patch (unbiased variance + 1e-6), as in the paper.
    """

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        decoder_embed_dim: int,
        decoder_depth: int,
        decoder_num_heads: int,
        norm_pix_loss: bool = True,
    ) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        block = partial(Block, mlp_ratio=4.0, qkv_bias=True, norm_layer=norm)  # type: ignore[arg-type]
        self.patch_size, self.norm_pix_loss = patch_size, norm_pix_loss
        self.patch_embed = PatchEmbed(img_size, patch_size, 3, embed_dim)
        grid = img_size // patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(sincos_position(embed_dim, grid), requires_grad=False)
        self.blocks = nn.ModuleList([block(embed_dim, num_heads) for _ in range(depth)])
        self.norm = norm(embed_dim)
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = nn.Parameter(sincos_position(decoder_embed_dim, grid), requires_grad=False)
        self.decoder_blocks = nn.ModuleList([block(decoder_embed_dim, decoder_num_heads) for _ in range(decoder_depth)])
        self.decoder_norm = norm(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size**2 * 3)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        weight = self.patch_embed.proj.weight
        nn.init.xavier_uniform_(weight.view(weight.shape[0], -1))  # as the linear map it is; its bias keeps the default
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def patchify(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, p*p*3); patches row by row, pixels of a patch in order (row, column, channel)."""
        b, c, h, w = images.shape
        p = self.patch_size
        return images.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, p * p * c)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Inverse of `patchify`: (B, N, p*p*3) -> (B, 3, H, W)."""
        b, n, _ = patches.shape
        p, grid = self.patch_size, math.isqrt(n)
        return patches.reshape(b, grid, grid, p, p, 3).permute(0, 5, 1, 3, 2, 4).reshape(b, 3, grid * p, grid * p)

    def target(self, images: Tensor) -> Tensor:
        """Return what the decoder has to predict, (B, N, p*p*3)."""
        target = self.patchify(images)
        if self.norm_pix_loss:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        return target

    def encode(self, images: Tensor, mask_ratio: float, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (tokens (B, 1+kept, D), mask (B, N), restore (B, N)); the patches of smallest noise are kept."""
        tokens = self.patch_embed(images) + self.pos_embed[:, 1:]
        b, n, d = tokens.shape
        kept = visible(n, mask_ratio)
        order = noise.argsort(dim=1, stable=True)
        restore = order.argsort(dim=1, stable=True)
        tokens = tokens.gather(1, order[:, :kept, None].expand(-1, -1, d))
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(b, -1, -1)
        tokens = torch.cat([cls, tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens), (restore >= kept).float(), restore

    def decode(self, tokens: Tensor, restore: Tensor) -> Tensor:
        """Return predictions (B, N, p*p*3) for all patches."""
        tokens = self.decoder_embed(tokens)
        b, visible, d = tokens.shape
        hidden = self.mask_token.expand(b, restore.shape[1] + 1 - visible, -1).to(tokens.dtype)
        patches = torch.cat([tokens[:, 1:], hidden], dim=1).gather(1, restore[:, :, None].expand(-1, -1, d))
        tokens = torch.cat([tokens[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            tokens = block(tokens)
        return self.decoder_pred(self.decoder_norm(tokens))[:, 1:]

    def forward(self, images: Tensor, mask_ratio: float = 0.75, noise: Tensor | None = None) -> MaeOutput:
        """Mask, encode, decode, compare.

        Args:
            images: (B, 3, H, W), normalized.
            mask_ratio: share removed; floor(N * (1 - mask_ratio)) patches stay visible.
            noise: (B, N) that orders the patches; drawn from torch's generator when None.
        """
        if noise is None:
            noise = torch.rand(len(images), self.patch_embed.num_patches, device=images.device)
        tokens, mask, restore = self.encode(images, mask_ratio, noise)
        pred = self.decode(tokens, restore)
        loss = masked_patch_mse(pred.float(), self.target(images.float()), mask)
        return MaeOutput(loss, pred, mask)
