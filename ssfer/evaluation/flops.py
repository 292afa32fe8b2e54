"""Floating-point operations of training and inference.

A multiply-add counts as two, as in torch's own counter. Operations are counted, not derived: torch traces a forward and
backward pass of the real network on its "meta" device, which computes shapes only.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ssfer.models.settings import ModelSettings
from ssfer.models.vit import build_mae
from ssfer.train.settings import PretrainSettings

# Products of activations and weights; all other products in a ViT are those of two activations, in attention.
LAYER_OPS = {torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm}


class ForwardFlops(NamedTuple):
    """Floating-point operations of a forward pass: of layers with weights, and of attention's two products."""

    layers: float
    attention: float


def mae_flops(model: ModelSettings, pretrain: PretrainSettings) -> float:
    """Return the floating-point operations of one image through a training step of the masked autoencoder.

    Forward and backward pass of matrix products, convolutions and attention, without the recomputation that some
    attention kernels do (so it is "model FLOPs"). ViT-B/16 at 224 pixels with MAE's decoder: 58.5 GFLOP.
    """
    with torch.device("meta"):
        mae = build_mae(model, pretrain)
        images = torch.empty(1, 3, model.img_size, model.img_size)
        noise = torch.empty(1, mae.patch_embed.num_patches)
    with FlopCounterMode(display=False) as counter:
        mae(images, pretrain.mask_ratio, noise).loss.backward()
    return float(counter.get_total_flops())


def forward_flops_by_kind(module: nn.Module, images: Tensor) -> ForwardFlops:
    """Return the floating-point operations of `module(images)` by kind.

    Biases, norms, activation functions and softmax are in neither: torch's counter leaves them out.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(images)
    counts = counter.get_flop_counts()["Global"]
    layers = sum(count for op, count in counts.items() if op in LAYER_OPS)
    return ForwardFlops(float(layers), float(counter.get_total_flops() - layers))
