"""Learning-rate schedules as pure functions of a float epoch, and parameter groups."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

# Parameters that are positions or tokens, not weight matrices: never decayed in MAE.
TOKENS = ("cls_token", "pos_embed", "mask_token", "decoder_pos_embed")


def mae_lr(epoch: float, *, lr: float, epochs: int, warmup_epochs: int, schedule: str = "mae_iter") -> float:
    """Return the learning rate of MAE pretraining.

    `mae_iter` (He et al. 2022): linear from 0 to `lr` over the warm-up, then half a cosine to 0 at `epochs`.
    `authors_min` (SSFER release, meant for whole epochs): lr * min((e+1)/(warmup+1e-8), (cos(pi e / epochs)+1)/2).
    """
    if schedule == "mae_iter":
        if epoch < warmup_epochs:
            return lr * epoch / warmup_epochs
        progress = (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-8)
        return lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    if schedule == "authors_min":
        return lr * min((epoch + 1) / (warmup_epochs + 1e-8), 0.5 * (math.cos(math.pi * epoch / epochs) + 1))
    raise ValueError(f"unknown schedule '{schedule}' (known: mae_iter, authors_min)")


def finetune_lr(
    epoch: float,
    *,
    epochs: int,
    lr_max: float = 1e-4,
    lr_min: float = 1e-5,
    lr_warm: float = 5e-5,
    warmup_epochs: int = 5,
    cosine_fraction: float = 0.5,
) -> float:
    """Return the learning rate of supervised fine-tuning (SSFER specification, section 9).

    Linear from `lr_warm` to `lr_max` over the warm-up; then a cosine counted from epoch 0 that reaches `lr_min` at
    T = cosine_fraction * epochs (hence the small jump after the warm-up); constant afterwards. T is at least 1 and the
    warm-up at most T - 1, so that it is defined for very short runs.
    """
    span = max(cosine_fraction * epochs, 1.0)
    warmup = min(float(warmup_epochs), span - 1)
    if epoch < warmup:
        return lr_warm + epoch * (lr_max - lr_warm) / warmup
    if epoch < span:
        return lr_min + 0.5 * (lr_max - lr_min) * (1 + math.cos(math.pi * epoch / span))
    return lr_min


def epoch_in_force(epoch: float, lag_one_step: bool) -> int:
    """Return the whole epoch whose learning rate is used by a step at `epoch` (a float).

    It is the step's own epoch. With `lag_one_step` an epoch's first step uses the value of the epoch before, because
    the SSFER release sets a new value after that step (specification, table 14, row 6).
    """
    own = math.floor(epoch)
    return max(own - 1, 0) if lag_one_step and epoch == own else own


def param_groups(module: nn.Module, weight_decay: float, decay_all: bool = False) -> list[dict[str, Any]]:
    """Return parameter groups for the optimizer; every trainable parameter is in exactly one.

    Biases, norms and other 1-D parameters and tokens are not decayed unless `decay_all`. Parameters for which a method
    declares another learning rate (`Method.lr_scales`) are in groups of their own, with `lr_scale`.
    """
    scales: Mapping[str, float] = getattr(module, "lr_scales", {})
    found: dict[float, tuple[list[nn.Parameter], list[nn.Parameter]]] = {1.0: ([], [])}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = next((value for prefix, value in scales.items() if name.startswith(prefix)), 1.0)
        exempt = parameter.ndim <= 1 or name.rpartition(".")[2] in TOKENS
        decay, keep = found.setdefault(scale, ([], []))
        (keep if exempt and not decay_all else decay).append(parameter)
    groups = []
    for scale, (decay, keep) in found.items():
        more = {} if scale == 1 else {"lr_scale": scale}
        groups += [
            {"params": decay, "weight_decay": weight_decay, **more},
            {"params": keep, "weight_decay": 0.0, **more},
        ]
    return [g for g in groups if g["params"]]


def build_optimizer(name: str, groups: Iterable[dict[str, Any]], lr: float, beta2: float = 0.95) -> Optimizer:
    """Return `adamw` or `sgd` over the groups; beta2 is AdamW's.

    sgd: Nesterov's momentum of 0.9 (Sutskever et al. 2013); its weight decay is added to the gradient (not decoupled).
    """
    if name == "sgd":
        return torch.optim.SGD(list(groups), lr=lr, momentum=0.9, nesterov=True, fused=True)
    return adamw(groups, lr, beta2)


def adamw(groups: Iterable[dict[str, Any]], lr: float, beta2: float = 0.95) -> torch.optim.AdamW:
    """Return AdamW; the default betas (0.9, 0.95) are those of all three stages of SSFER."""
    return torch.optim.AdamW(list(groups), lr=lr, betas=(0.9, beta2), fused=True)
