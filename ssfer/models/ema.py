"""Exponential moving average of a module's state."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """A copy of `module` that follows it: every float entry of its state is decay * old + (1 - decay) * new.

    The copy starts equal, is always in eval mode and never has gradients. Integer entries are copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"EMA decay must lie in [0, 1], found {decay}")
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move one step toward `module`, which stays as it is."""
        new = module.state_dict()
        floats: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, old in self.module.state_dict().items():
            if old.is_floating_point():
                floats[0].append(old)
                floats[1].append(new[name].to(old.dtype))
            else:
                old.copy_(new[name])
        torch._foreach_mul_(floats[0], self.decay)
        torch._foreach_add_(floats[0], floats[1], alpha=1 - self.decay)

    def train(self, mode: bool = True) -> EMA:
        """Keep the averaged module in eval mode whatever its owner does."""
        super().train(mode)
        self.module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the averaged module's output, without gradient."""
        with torch.no_grad():
            return self.module(images)
