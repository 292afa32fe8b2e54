"""The only training loop. It knows no method, data set or file format.

With several processes (`torchrun`, `accelerate launch`) each trains on its part of every global batch, and all have the
metrics of the whole. A killed run continues from its last snapshot with the same numbers, because batches, masks and
seeds are functions of the step. This also holds for a run that a cluster preempts with a signal, and, up to rounding,
for a run continued by another number of processes.
"""

from contextlib import ExitStack, closing
from typing import Any

from ssfer.core.process import StopRequest
from ssfer.core.progress import Progress
from ssfer.train.checkpoints import Checkpoints
from ssfer.train.device import Machine
from ssfer.train.epoch_end import EpochEnd
from ssfer.train.failures import explained
from ssfer.train.loader import loader, read
from ssfer.train.metrics_history import Meter, Progression
from ssfer.train.plan import Callbacks, TrainingPlan
from ssfer.train.snapshots import Snapshots
from ssfer.train.step import Step
from ssfer.train.step_flags import StepFlags


def fit(
    plan: TrainingPlan, machine: Machine, checkpoints: Checkpoints, callbacks: Callbacks | None = None
) -> Progression:
    """Train `plan.method` in place to the end of `plan.batches` and return the run's progression.

    Args:
        plan: method, optimizer, batches and schedule.
        machine: device, precision and processes.
        checkpoints: where snapshots go; an unfinished run found there is continued.
        callbacks: what is called at the end of epochs.

    Raises:
        Diverged: the loss is not finite (names step, learning rate and the last snapshot).
        SsferError: a batch that cannot be cut to machine.max_batch; another process of the launch has ended.
        Preempted: SIGTERM, SIGUSR1 or Ctrl-C was received; a snapshot is written.
    """
    batches, total = plan.batches, len(plan.batches)
    machine.announce(plan.label)
    run = _resume(plan, checkpoints, machine)
    with (
        ExitStack() as leave,
        StopRequest() as stop,
        explained(machine, checkpoints.newest),
        Progress(
            plan.label, total, done=run.step, per_step=plan.images_per_step, cost=plan.cost, enabled=machine.rank == 0
        ) as progress,
    ):
        leave.callback(machine.release)
        snapshots = leave.enter_context(Snapshots(checkpoints, in_background=machine.device.type == "cuda"))
        machine.check_same(run.step, "the step to continue at")
        step = Step(plan, machine)
        end_epoch = EpochEnd(plan, callbacks or Callbacks(), machine, run)
        if run.step == 0:
            end_epoch.labeled_pass(0)
        plan.method.train()
        flags = StepFlags(machine, stop, checkpoints)
        steps = range(run.step, total)
        made = leave.enter_context(closing(read(loader(batches, steps, machine))))
        for number, batch in zip(steps, made, strict=True):
            lr = step.set_lr(number)
            metrics = step.gradients(number, batch)
            flags.check_finite()  # of the step before
            step.update(number)
            run.meter.update(flags.exchange(number, lr, metrics))
            run.step = number + 1
            if run.step % batches.steps_per_epoch == 0:
                flags.check_finite()
                row = end_epoch(lr)
                progress.note(f"epoch {row['epoch']}/{batches.epochs} loss {row['loss']:.4f}")
            progress.advance()
            stopping, saving = flags.requests(last=run.step == total)
            if stopping or saving or run.step == total:
                flags.check_finite()
                if machine.rank == 0:
                    snapshots.save(run.step, _state(plan, run, machine))
                flags.saved()
            if stopping:
                snapshots.finish()
                flags.preempt(run.step, total)
    return run


def _state(plan: TrainingPlan, run: Progression, machine: Machine) -> dict[str, Any]:
    return {
        "method": plan.method.state_dict(),
        "optimizer": plan.optimizer.state_dict(),
        "scaler": machine.scaler_state(),
        "history": run.history,
        "best": run.best,
        "meter": {"steps": run.meter.steps, "sums": run.meter.sums},
    }


def _resume(plan: TrainingPlan, checkpoints: Checkpoints, machine: Machine) -> Progression:
    state = checkpoints.load()
    if state is None:
        return Progression()
    plan.method.load_state_dict(state["method"])
    plan.optimizer.load_state_dict(state["optimizer"])
    machine.load_scaler_state(state.get("scaler", {}))
    meter = Meter()
    meter.steps, meter.sums = state["meter"]["steps"], state["meter"]["sums"]
    return Progression(state["step"], state["history"], state["best"], meter)
