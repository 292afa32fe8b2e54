"""The only training loop and the only inference loop. Neither knows a method, a data set or a file format.

One process or many (`torchrun`, `accelerate launch`): accelerate wraps the method, each rank trains on its part of
every global batch. A run killed at any instruction continues from its last snapshot with the same numbers, because
batches, masks and seeds are functions of the step.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ssfer.checkpoint import Checkpoints
from ssfer.data.dataset import FaceDataset, StepBatches
from ssfer.data.transforms import Eval, normalize
from ssfer.errors import SsferError
from ssfer.methods.base import Method
from ssfer.params import MachineParams, ModelParams
from ssfer.progress import Progress
from ssfer.rng import derive
from ssfer.tracking import Tracker

Row = dict[str, Any]


class Machine:
    """Device, precision and processes of this run; science does not depend on them."""

    def __init__(self, params: MachineParams) -> None:
        self.params = params
        if params.threads != "auto":
            torch.set_num_threads(params.threads)
        if params.device == "cuda" and not torch.cuda.is_available():
            raise SsferError("machine.device is 'cuda' but torch finds no CUDA device; set it to auto or cpu")
        on_cuda = torch.cuda.is_available() and params.device != "cpu"
        if params.precision == "bf16" and not on_cuda:
            raise SsferError("machine.precision bf16 needs CUDA: on a CPU it is hundreds of times slower than fp32")
        precision = "bf16" if on_cuda and params.precision != "fp32" else "no"
        self.accelerator = Accelerator(cpu=not on_cuda, mixed_precision=precision)
        self.device = self.accelerator.device
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        # On a CPU the training threads already use every core, so the loader stays in the process.
        auto = min(8, (os.cpu_count() or 1) // max(torch.cuda.device_count(), 1)) if on_cuda else 0
        self.num_workers = auto if params.num_workers == "auto" else params.num_workers


@dataclass(frozen=True)
class Schedule:
    """What the loop needs to know of time: learning rate by float epoch, how often to look at the validation part."""

    lr_at: Callable[[float], float]
    eval_every: int = 1


@dataclass
class Progression:
    """Everything of a run beside the networks: where it stands, its curve, the best state on the validation part."""

    step: int = 0
    history: list[Row] = field(default_factory=list)
    best: dict[str, Any] | None = None


class Meter:
    """Running epoch sums: scalars are averaged over steps, `*_count` tensors are summed."""

    def __init__(self) -> None:
        self.steps = 0
        self.sums: dict[str, Tensor] = {}

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Add one step's outputs."""
        self.steps += 1
        for name, value in values.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def result(self, accelerator: Accelerator) -> Row:
        """Return the epoch's figures over all ranks as plain numbers and lists."""
        row: Row = {}
        for name, total in self.sums.items():
            if name.endswith("_count"):
                row[name] = accelerator.reduce(total, "sum").long().tolist()
            else:
                row[name] = accelerator.reduce(total, "mean").item() / self.steps
        return row


def fit(
    method: Method,
    optimizer: torch.optim.Optimizer,
    batches: StepBatches,
    schedule: Schedule,
    *,
    machine: Machine,
    model: ModelParams,
    seed: int,
    checkpoints: Checkpoints,
    label: str,
    tracker: Tracker | None = None,
    evaluate: Callable[[Method], Row] | None = None,
) -> Progression:
    """Train `method` in place to the end of `batches` and return the run's progression.

    Args:
        batches: the training steps; `len` is the total.
        evaluate: called after every `schedule.eval_every` epochs and after the last; returns figures for the history;
            the epoch of highest `val_accuracy` (ties: lowest `val_loss`, then the earlier) is kept as `best`, with
            the method's whole state under "state".
        checkpoints: where snapshots go; an unfinished run found there is continued.

    Raises:
        SsferError: the loss is not finite; names step, learning rate and the last snapshot.
    """
    accelerator = machine.accelerator
    run, meter = _resume(checkpoints, method, optimizer)
    wrapped, optimizer = accelerator.prepare(method, optimizer)
    wrapped.train()
    per_epoch, total = batches.steps_per_epoch, len(batches)
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(run.step, total),
        num_workers=machine.num_workers,
        pin_memory=machine.device.type == "cuda",
    )
    size = sum(s.batch_size for s in batches.streams)
    pending: tuple[int, float, Tensor] | None = None
    saved = time.monotonic()
    with Progress(label, total, done=run.step, per_step=size, enabled=accelerator.is_main_process) as progress:
        for step, raw in zip(range(run.step, total), loader, strict=True):
            lr = schedule.lr_at(step / per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            torch.manual_seed(derive(seed, "step", step, machine.rank))
            out = wrapped(_to_device(raw, machine.device, model))
            accelerator.backward(out["loss"])
            norm = nn.utils.get_total_norm([p.grad for p in method.parameters() if p.grad is not None])
            # Looked at one step late, so that a GPU need not wait; nothing is saved before the look.
            _check_finite(pending, checkpoints)
            pending = (step, lr, out["loss"].detach())
            optimizer.step()
            optimizer.zero_grad()
            method.after_step(step)
            meter.update({**out, "grad_norm": norm})
            run.step = step + 1
            if run.step % per_epoch == 0:
                _check_finite(pending, checkpoints)
                epoch = run.step // per_epoch
                row = {"epoch": epoch, "lr": lr, **meter.result(accelerator)}
                meter = Meter()
                if evaluate is not None and (epoch % schedule.eval_every == 0 or run.step == total):
                    row.update(evaluate(method))
                    _keep_best(run, row, method)
                    wrapped.train()
                run.history.append(row)
                if tracker is not None and accelerator.is_main_process:
                    tracker.log_epoch(epoch, {k: v for k, v in row.items() if not isinstance(v, list)})
                progress.note(f"epoch {epoch}/{batches.epochs} loss {row['loss']:.4f}")
            progress.advance()
            due = time.monotonic() - saved > 60 * machine.params.checkpoint_minutes
            if (due or run.step == total) and accelerator.is_main_process:
                _check_finite(pending, checkpoints)
                _save(checkpoints, run, meter, method, optimizer)
                saved = time.monotonic()
    return run


@torch.inference_mode()
def predict(module: nn.Module, dataset: FaceDataset, *, machine: Machine, model: ModelParams) -> NDArray[np.float64]:
    """Return class probabilities (N, K) of all samples in order, under the eval transform and in eval mode."""
    training = module.training
    module.eval()
    transform, batch_size = Eval(model.img_size), machine.params.eval_batch_size
    probs = []
    for first in range(0, len(dataset), batch_size):
        samples = [dataset[i] for i in range(first, min(first + batch_size, len(dataset)))]
        images = torch.stack([transform(s.image, s.box, 0).image for s in samples])
        logits = module(normalize(images.to(machine.device), model.mean, model.std))
        probs.append(logits.double().softmax(dim=1).cpu().numpy())
    module.train(training)
    return np.concatenate(probs)


def _to_device(batch: Mapping[str, Tensor], device: torch.device, model: ModelParams) -> dict[str, Tensor]:
    moved = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
    return {k: normalize(v, model.mean, model.std) if k.startswith("x_") else v for k, v in moved.items()}


def _check_finite(pending: tuple[int, float, Tensor] | None, checkpoints: Checkpoints) -> None:
    if pending is not None and not math.isfinite(value := pending[2].item()):
        raise SsferError(
            f"the loss became {value} at step {pending[0]} with learning rate {pending[1]:.3g}; last snapshot: "
            f"{checkpoints.newest()}. Lower the learning rate or lengthen the warm-up"
        )


def _keep_best(run: Progression, row: Row, method: Method) -> None:
    rank = (row["val_accuracy"], -row["val_loss"])
    if run.best is None or rank > (run.best["val_accuracy"], -run.best["val_loss"]):
        state = {k: v.detach().clone() for k, v in method.state_dict().items()}
        run.best = {k: row[k] for k in ("epoch", "val_accuracy", "val_loss")} | {"state": state}


def _save(c: Checkpoints, run: Progression, meter: Meter, method: Method, optimizer: torch.optim.Optimizer) -> None:
    c.save(
        run.step,
        {
            "method": method.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": run.history,
            "best": run.best,
            "meter": {"steps": meter.steps, "sums": meter.sums},
        },
    )


def _resume(c: Checkpoints, method: Method, optimizer: torch.optim.Optimizer) -> tuple[Progression, Meter]:
    state, meter = c.load(), Meter()
    if state is None:
        return Progression(), meter
    method.load_state_dict(state["method"])
    optimizer.load_state_dict(state["optimizer"])
    meter.steps, meter.sums = state["meter"]["steps"], state["meter"]["sums"]
    return Progression(state["step"], state["history"], state["best"]), meter
