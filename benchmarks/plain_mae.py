"""A masked autoencoder in plain PyTorch, with which `ssfer.models.mae` is compared.

Written from the paper (He et al., CVPR 2022). It computes as the official model does: attention as two matrix products
around a softmax, mean and variance of the targets separately, AdamW without fusion, nothing compiled. Parameters have
the published names, so that `load_state_dict` takes ours, and the same weights give the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ssfer.models.settings import ModelSettings
from ssfer.train.settings import PretrainSettings

layer_norm = partial(nn.LayerNorm, eps=1e-6)


class Attention(nn.Module):
    """Multi-head self-attention that stores its weights (B, heads, N, N) in memory."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = layer_norm(dim), Attention(dim, heads)
        self.norm2, self.mlp = layer_norm(dim), Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Cut into patches and map each of them, as a convolution."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, D)."""
        return self.proj(images).flatten(2).transpose(1, 2)


class PlainMae(nn.Module):
    """Masked autoencoder with the architecture of `build_mae(model, pretrain)`; load weights into it before use."""

    def __init__(self, model: ModelSettings, pretrain: PretrainSettings) -> None:
        super().__init__()
        self.patch_size, self.norm_pix_loss = model.patch_size, pretrain.norm_pix_loss
        dim, decoder_dim, tokens = (
            model.embed_dim,
            pretrain.decoder_embed_dim,
            (model.img_size // model.patch_size) ** 2,
        )
        self.patch_embed = PatchEmbed(model.patch_size, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + tokens, dim), requires_grad=False)
        self.blocks = nn.ModuleList([Block(dim, model.num_heads) for _ in range(model.depth)])
        self.norm = layer_norm(dim)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + tokens, decoder_dim), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            [Block(decoder_dim, pretrain.decoder_num_heads) for _ in range(pretrain.decoder_depth)]
        )
        self.decoder_norm = layer_norm(decoder_dim)
        self.decoder_pred = nn.Linear(decoder_dim, 3 * model.patch_size**2)

    def forward(self, images: Tensor, mask_ratio: float = 0.75, noise: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            images: (B, 3, H, W), normalized.
            mask_ratio: share of the patches removed.
            noise: (B, N); the patches of smallest noise stay. Drawn when None.
        """
        tokens, mask, restore = self._encode(images, mask_ratio, noise)
        pred = self._decode(tokens, restore)
        target = self._patches(images)
        if self.norm_pix_loss:
            mean, variance = target.mean(dim=-1, keepdim=True), target.var(dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6) ** 0.5
        per_patch = ((pred - target) ** 2).mean(dim=-1)
        return (per_patch * mask).sum() / mask.sum()

    def _patches(self, images: Tensor) -> Tensor:
        b, p = len(images), self.patch_size
        grid = images.shape[2] // p
        cut = images.reshape(b, 3, grid, p, grid, p)
        return torch.einsum("nchpwq->nhwpqc", cut).reshape(b, grid * grid, p * p * 3)

    def _encode(self, images: Tensor, mask_ratio: float, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        b, n, d = x.shape
        kept = int(n * (1 - mask_ratio))
        noise = torch.rand(b, n, device=x.device) if noise is None else noise
        shuffle = torch.argsort(noise, dim=1)
        restore = torch.argsort(shuffle, dim=1)
        x = torch.gather(x, 1, shuffle[:, :kept, None].repeat(1, 1, d))
        mask = torch.ones(b, n, device=x.device)
        mask[:, :kept] = 0
        mask = torch.gather(mask, 1, restore)
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(b, -1, -1)
        x = torch.cat([cls, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), mask, restore

    def _decode(self, x: Tensor, restore: Tensor) -> Tensor:
        x = self.decoder_embed(x)
        b, seen, d = x.shape
        hidden = self.mask_token.repeat(b, restore.shape[1] + 1 - seen, 1)
        patches = torch.cat([x[:, 1:], hidden], dim=1)
        patches = torch.gather(patches, 1, restore[:, :, None].repeat(1, 1, d))
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]


def plain_adamw(groups: Iterable[dict[str, Any]], lr: float) -> torch.optim.AdamW:
    """Return torch's default AdamW: tensor by tensor on a CPU, many tensors at once on CUDA, not fused."""
    return torch.optim.AdamW(list(groups), lr=lr, betas=(0.9, 0.95))
