"""Training steps on noise: what a step takes on this machine, without data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from ssfer.core.pixels import normalize
from ssfer.core.rng import derive
from ssfer.methods.base import Method
from ssfer.models.settings import ModelSettings
from ssfer.train.device import Machine
from ssfer.train.distributed import Trained
from ssfer.train.metrics_history import Meter
from ssfer.train.optim import adamw, param_groups
from ssfer.train.speed import finish

Step = Callable[[], object]
_WARM_UP = 3  # steps before the clock counts: the first ones choose algorithms, or compile


class Trial(NamedTuple):
    """What steps took.

    Attributes:
        images_per_second: by the clock.
        waits: how often a step waited for the GPU, on average; None on a CPU.
    """

    images_per_second: float
    waits: float | None


def noise_batch(
    method: type[Method], model: ModelSettings, sizes: tuple[int, int], totals: tuple[int, int], classes: int, seed: int
) -> dict[str, Tensor]:
    """Return a step's batch of noise, with the entries and views that the training loop gives this method.

    Args:
        sizes: labeled and unlabeled images of the step.
        totals: of the whole data set, from which their places are drawn.
    """
    g, side = torch.Generator().manual_seed(seed), model.img_size

    def images(n: int) -> Tensor:
        pixels = torch.randint(256, (n, 3, side, side), generator=g, dtype=torch.uint8)
        return normalize(pixels, model.mean, model.std)

    batch: dict[str, Tensor] = {}
    for name, n, views, total in zip(("lb", "ulb"), sizes, (("",), method.views), totals, strict=True):
        batch |= {f"x_{name}_{view}" if view else f"x_{name}": images(n) for view in views}
        corner = torch.rand(n, 2, generator=g) * side / 4
        batch[f"y_{name}"] = torch.randint(classes, (n,), generator=g)
        batch[f"boxes_{name}"] = torch.cat([corner, corner + side / 2], dim=1)
        batch[f"key_{name}"] = torch.tensor([derive(seed, name, i) for i in range(n)])
        batch[f"idx_{name}"] = torch.randperm(max(total, n), generator=g)[:n]
    return batch


def training_step(
    method: Method, batch: Mapping[str, Tensor], machine: Machine, weight_decay: float, seed: int, beta2: float = 0.95
) -> Step:
    """Return a training step as `ssfer.train.loop.fit` takes it; it trains the method in place, learning rate 0."""
    meter, done = Meter(), count()
    trained = Trained(method, adamw(param_groups(method, weight_decay, decay_all=True), 0.0, beta2), machine)
    trained.module.train()
    on_device = {name: value.to(machine.device) for name, value in batch.items()}

    def step() -> None:
        number = next(done)
        torch.manual_seed(derive(seed, "step", number, 0))
        out = trained.gradients(on_device, 1.0, last=True)
        norm = trained.grad_norm()
        trained.step()
        if method.two_steps:
            trained.gradients(on_device, 1.0, last=True, second=True)
            trained.step()
        method.after_step(number)
        meter.update(machine.total({**out, "grad_norm": norm}))

    return step


def timed(step: Step, images: int, machine: Machine, steps: int) -> Trial:
    """Return what `steps` steps of so many images take, after some to warm up."""
    for _ in range(_WARM_UP):
        step()
    finish(machine.device)
    on_cuda = machine.device.type == "cuda"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if on_cuda:
            torch.cuda.set_sync_debug_mode("warn")
        started = time.perf_counter()
        try:
            for _ in range(steps):
                step()
        finally:
            if on_cuda:
                torch.cuda.set_sync_debug_mode("default")
    finish(machine.device)
    seconds = time.perf_counter() - started
    waits = sum("synchroniz" in str(w.message) for w in said) / steps if on_cuda else None
    return Trial(images * steps / seconds, waits)
