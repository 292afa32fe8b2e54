"""The only training loop. It knows no method, data set or file format.

One process or many (`torchrun`, `accelerate launch`): each trains on its part of every global batch, and all of them
know the figures of the whole. A run killed at any instruction continues from its last snapshot with the same numbers,
because batches, masks and seeds are functions of the step; so does one that a cluster preempts with a signal, and one
that is continued by another number of processes, within rounding.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ssfer.core.errors import Diverged
from ssfer.core.pixels import normalize
from ssfer.core.process import Preempted, StopRequest
from ssfer.core.progress import Cost, Progress
from ssfer.core.rng import derive
from ssfer.data.batch_parts import cut, number_of_parts
from ssfer.data.batches import StepBatches
from ssfer.methods.base import Batch, Method
from ssfer.models.settings import ModelSettings
from ssfer.tracking.tracker import Tracker
from ssfer.train.checkpoints import Checkpoints
from ssfer.train.device import Machine
from ssfer.train.distributed import Trained
from ssfer.train.history import Meter, Outcome, Pace, Progression, Row


@dataclass(frozen=True)
class Schedule:
    """What the loop needs to know of time: learning rate by float epoch, how often to look at the validation part."""

    lr_at: Callable[[float], float]
    eval_every: int = 1


class Watcher(Protocol):
    """Looks at a method every `every` epochs, changes nothing, and returns figures for the diary alone."""

    every: int

    def __call__(self, method: Method, epoch: int) -> Mapping[str, float]:
        """Look at the method in the first process."""


def fit(
    method: Method,
    optimizer: torch.optim.Optimizer,
    batches: StepBatches,
    schedule: Schedule,
    *,
    machine: Machine,
    model: ModelSettings,
    seed: int,
    checkpoints: Checkpoints,
    label: str,
    tracker: Tracker | None = None,
    evaluate: Callable[[Method], Row] | None = None,
    watch: Watcher | None = None,
    cost: Cost | None = None,
    labeled: Callable[[int], Iterable[Batch]] | None = None,
) -> Progression:
    """Train `method` in place to the end of `batches` and return the run's progression.

    Args:
        batches: the training steps; `len` is the total.
        evaluate: called after every `schedule.eval_every` epochs and after the last; returns figures for the history;
            the epoch of highest `val_accuracy` (ties: lowest `val_loss`, then the earlier) is kept as `best`, with
            the method's whole state under "state".
        watch: called after every `watch.every` epochs and after the last.
        labeled: gives the labeled images for an epoch's survey; for methods that declare `labeled_pass_views`.
        cost: arithmetic of an image, to tell how much of the devices is used.
        checkpoints: where snapshots go; an unfinished run found there is continued.

    Raises:
        Diverged: the loss is not finite (names step, learning rate and the last snapshot).
        SsferError: a batch that cannot be cut to machine.max_batch; another process of the launch has ended.
        Preempted: SIGTERM or SIGUSR1 came; a snapshot is written.
    """
    shares = [stream.batch_size // batches.world for stream in batches.streams]
    parts = number_of_parts(shares, machine.params.max_batch)
    run, meter = _resume(checkpoints, method, optimizer)
    per_epoch, total = batches.steps_per_epoch, len(batches)
    size = sum(shares) * batches.world
    pending: Outcome | None = None
    with (
        StopRequest() as stop,
        machine.peers(checkpoints.newest),
        Progress(label, total, done=run.step, per_step=size, cost=cost, enabled=machine.rank == 0) as progress,
    ):
        machine.check_same(run.step, "the step to continue at")
        trained = Trained(method, optimizer, machine)
        if run.step == 0:
            _survey(method, 0, labeled)
        trained.module.train()
        saved, pace = time.monotonic(), Pace(run.step, cost)
        for step, raw in zip(range(run.step, total), _loader(batches, run.step, machine), strict=True):
            lr = schedule.lr_at(step / per_epoch)
            for group in trained.optimizer.param_groups:
                group["lr"] = lr * group.get("lr_scale", 1.0)
            out = _gradients(trained, raw, parts, derive(seed, "step", step, 0), model)
            norm = trained.grad_norm()
            # Looked at one step late, so that a GPU need not wait; nothing is saved before the look.
            _check_finite(pending, checkpoints)
            before = pending
            trained.optimizer.step()
            trained.optimizer.zero_grad()
            method.after_step(step)
            due = machine.rank == 0 and time.monotonic() - saved > 60 * machine.params.checkpoint_minutes
            asked = {"stop": torch.tensor(stop.number is not None).double(), "due": torch.tensor(due).double()}
            figures = machine.total({**out, "grad_norm": norm, **asked})
            pending = Outcome(step, lr, figures["loss"], figures.pop("stop"), figures.pop("due"))
            meter.update(figures)
            run.step = step + 1
            if run.step % per_epoch == 0:
                _check_finite(pending, checkpoints)
                epoch = run.step // per_epoch
                row = {"epoch": epoch, "lr": lr, **meter.result()}
                meter = Meter()
                _survey(method, epoch, labeled)
                if evaluate is not None and (epoch % schedule.eval_every == 0 or run.step == total):
                    row.update(evaluate(method))
                    run.keep_best(method.state_dict(), row)
                    trained.module.train()
                run.history.append(row)
                told = {k: v for k, v in row.items() if not isinstance(v, list)} | pace.lap(run.step, size)
                if watch is not None and (epoch % watch.every == 0 or run.step == total):
                    told.update(watch(method, epoch) if machine.rank == 0 else {})
                if tracker is not None and machine.rank == 0:
                    tracker.log_epoch(epoch, told)
                progress.note(f"epoch {epoch}/{batches.epochs} loss {row['loss']:.4f}")
            progress.advance()
            # Wishes that lie on a GPU are looked at one step late as well.
            known = pending if pending.stop.device.type == "cpu" or run.step == total else before
            stopping, saving = known.wishes() if known is not None else (False, False)
            if stopping or saving or run.step == total:
                _check_finite(pending, checkpoints)
                _save(checkpoints, run, meter, trained)
                saved = time.monotonic()
                pending = pending._replace(due=torch.zeros_like(pending.due))
            if stopping:
                name = signal.Signals(stop.number or signal.SIGTERM).name
                machine.wait_for_all()
                where = f"at step {run.step} of {total}"
                message = f"stopped by {name} {where} with a snapshot; the same command continues there"
                raise Preempted(message, stop.number or signal.SIGTERM)
    return run


def _survey(method: Method, epoch: int, labeled: Callable[[int], Iterable[Batch]] | None) -> None:
    """Let the method look at the labeled images, if it wants to; called by all processes together."""
    if method.labeled_pass_views is not None:
        assert labeled is not None, "a method that surveys the labeled images needs them"
        method.labeled_pass(epoch, labeled(epoch))


def _loader(batches: StepBatches, first: int, machine: Machine) -> DataLoader[dict[str, Tensor]]:
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, len(batches)),
        num_workers=machine.num_workers,
        pin_memory=machine.device.type == "cuda",
        worker_init_fn=_outlive_signals,
    )


def _outlive_signals(worker: int) -> None:
    """A cluster signals all processes of a job; workers serve until their parent has written its snapshot and ends."""
    for number in StopRequest.SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _gradients(
    trained: Trained, raw: Mapping[str, Tensor], parts: int, seed: int, model: ModelSettings
) -> dict[str, Tensor]:
    """Put the gradient of the whole batch's mean loss into the parameters, part by part; return the batch's figures."""
    outs = []
    for part in range(parts):
        torch.manual_seed(seed)  # what is drawn once a batch is the same in all its parts and in all processes
        batch = _to_device(cut(raw, part, parts), trained.machine.device, model)
        outs.append(trained.gradients(batch, 1 / parts, last=part == parts - 1))
    if parts == 1:
        return outs[0]
    stacked = {name: torch.stack([out[name] for out in outs]) for name in outs[0]}
    return {k: v.sum(dim=0) if k.endswith("_count") else v.double().mean(dim=0) for k, v in stacked.items()}


def _to_device(batch: Mapping[str, Tensor], device: torch.device, model: ModelSettings) -> dict[str, Tensor]:
    moved = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
    return {k: normalize(v, model.mean, model.std) if k.startswith("x_") else v for k, v in moved.items()}


def _check_finite(pending: Outcome | None, checkpoints: Checkpoints) -> None:
    if pending is not None and not math.isfinite(value := pending.loss.item()):
        checkpoints.give_up()
        raise Diverged(
            f"the loss became {value} at step {pending.step} with learning rate {pending.lr:.3g}; last snapshot: "
            f"{checkpoints.newest()}. Lower the learning rate or lengthen the warm-up"
        )


def _save(c: Checkpoints, run: Progression, meter: Meter, trained: Trained) -> None:
    if trained.machine.rank == 0:
        state = {
            "method": trained.method.state_dict(),
            "optimizer": trained.optimizer.state_dict(),
            "history": run.history,
            "best": run.best,
            "meter": {"steps": meter.steps, "sums": meter.sums},
        }
        c.save(run.step, state, trained.machine.params.keep_checkpoints)


def _resume(c: Checkpoints, method: Method, optimizer: torch.optim.Optimizer) -> tuple[Progression, Meter]:
    state, meter = c.load(), Meter()
    if state is None:
        return Progression(), meter
    method.load_state_dict(state["method"])
    optimizer.load_state_dict(state["optimizer"])
    meter.steps, meter.sums = state["meter"]["steps"], state["meter"]["sums"]
    return Progression(state["step"], state["history"], state["best"]), meter
