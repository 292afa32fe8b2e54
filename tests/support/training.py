"""One call for tests that train: plan, optimizer and machine from few arguments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssfer.config.schema import Params
from ssfer.core.progress import Cost
from ssfer.data.batches import StepBatches
from ssfer.methods.base import Method
from ssfer.train.checkpoints import Checkpoints
from ssfer.train.device import Machine
from ssfer.train.loop import fit
from ssfer.train.metrics_history import Progression
from ssfer.train.optim import adamw, param_groups
from ssfer.train.plan import Callbacks, TrainingPlan


def fit_method(
    method: Method,
    batches: StepBatches,
    p: Params,
    folder: Path,
    *,
    lr_at: Callable[[float], float] = lambda epoch: 1e-3,
    weight_decay: float = 0.05,
    seed: int = 7,
    label: str = "test",
    cost: Cost | None = None,
    machine: Machine | None = None,
    **callbacks: Any,
) -> Progression:
    """Train a method with AdamW and snapshots in `folder`."""
    optimizer = adamw(param_groups(method, weight_decay), 1e-3)
    plan = TrainingPlan(method, optimizer, batches, lr_at, seed, p.model.mean, p.model.std, label, cost)
    return fit(plan, machine or Machine(p.machine), Checkpoints(folder), Callbacks(**callbacks))
