"""Counted FLOPs against closed forms derived by hand, and the measured rate of matrix products against itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from ssfer.config.profiles import resolve
from ssfer.config.schema import load_params, parse_params
from ssfer.evaluation.flops import forward_flops_by_kind, mae_flops
from ssfer.models.settings import ModelSettings
from ssfer.train.settings import PretrainSettings
from ssfer.train.speed import matmul_rate
from tests.support import factory


def mae_closed_form(m: ModelSettings, p: PretrainSettings) -> int:
    """Return the FLOPs of a training step: two per multiply-add, weights and inputs of a layer have a gradient each.

    Of the patch embedding only the weight has one, because nobody differentiates with respect to the pixels. The two
    products of attention have two gradients each, as layers do.
    """
    patches = (m.img_size // m.patch_size) ** 2
    pixels, everything = 3 * m.patch_size**2, patches + 1
    visible = 1 + int(patches * (1 - p.mask_ratio) + 1e-6)
    wide, narrow = m.embed_dim, p.decoder_embed_dim

    def blocks(depth: int, tokens: int, dim: int) -> int:
        return depth * (12 * tokens * dim**2 + 2 * tokens**2 * dim)  # qkv 3, projection 1, MLP 8; QK' and AV

    once = patches * pixels * wide
    rest = (
        blocks(m.depth, visible, wide)
        + visible * wide * narrow
        + blocks(p.decoder_depth, everything, narrow)
        + everything * narrow * pixels
    )
    return 2 * (2 * once + 3 * rest)


def test_mae_of_the_paper_has_the_closed_form_and_the_documented_size(project: Path) -> None:
    _, params = resolve(["paper"])
    counted = mae_flops(params.model, params.pretrain)
    assert counted == mae_closed_form(params.model, params.pretrain)
    assert round(counted / 1e9, 1) == 58.5


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("pretrain", "mask_ratio", 0.5), ("model", "depth", 3), ("pretrain", "decoder_depth", 2)],
)
def test_mae_of_other_sizes_has_the_closed_form(section: str, key: str, value: float) -> None:
    params = load_params(factory.ROOT / "params.yaml")
    other = parse_params({**params.model_dump(), section: {**getattr(params, section).model_dump(), key: value}})
    counted = mae_flops(other.model, other.pretrain)
    assert counted == mae_closed_form(other.model, other.pretrain)
    assert counted != mae_flops(params.model, params.pretrain)


class _Net(nn.Module):
    """A convolution (2 to 3 channels, 2 x 2, stride 2), layers with and without bias, a product of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2, stride=2)
        self.biased, self.bare = nn.Linear(3, 5), nn.Linear(5, 7, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2)  # (1, 4, 3)
        tokens = self.bare(self.biased(tokens))  # (1, 4, 7)
        return tokens @ tokens.transpose(1, 2)


def test_forward_counts_layers_and_products_of_activations_apart() -> None:
    net, x = _Net(), torch.zeros(1, 2, 4, 4)
    layers = 2 * (4 * 3 * 2 * 2 * 2 + 4 * 3 * 5 + 4 * 5 * 7)
    attention = 2 * (4 * 4 * 7)
    assert forward_flops_by_kind(net, x) == (layers, attention)


def test_rate_of_matrix_products_is_what_one_timed_by_hand_gives() -> None:
    cpu, rows = torch.device("cpu"), 1024
    a = torch.randn(rows, rows)
    spent = []
    for _ in range(6):
        started = time.perf_counter()
        a @ a
        spent.append(time.perf_counter() - started)
    by_hand = 2 * rows**3 / min(spent)
    # Other work on the machine makes either slower: only the order of magnitude is sure.
    assert by_hand / 20 < matmul_rate(cpu, torch.float32, seconds=0.1) < by_hand * 4
