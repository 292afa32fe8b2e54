"""The end of an epoch: labeled pass, evaluation, best state, history, logging."""

from ssfer.train.device import Machine
from ssfer.train.metrics_history import Meter, Pace, Progression, Row
from ssfer.train.plan import Callbacks, TrainingPlan


class EpochEnd:
    """Ends the epochs of a run; called by all processes together."""

    def __init__(self, plan: TrainingPlan, callbacks: Callbacks, machine: Machine, run: Progression) -> None:
        self._plan, self._calls, self._machine, self._run = plan, callbacks, machine, run
        self._pace = Pace(run.step, plan.cost)

    def __call__(self, lr: float) -> Row:
        """Evaluate, append the epoch's row to the history, log it; return the row.

        Args:
            lr: learning rate of the epoch's last step.
        """
        plan, calls, run = self._plan, self._calls, self._run
        epoch, last = run.step // plan.batches.steps_per_epoch, run.step == len(plan.batches)
        row = {"epoch": epoch, "lr": lr, **run.meter.result()}
        run.meter = Meter()
        self.labeled_pass(epoch)
        if calls.evaluate is not None and (last or epoch % calls.eval_every == 0):
            row.update(calls.evaluate(plan.method))
            run.keep_best(plan.method.state_dict(), row)
            plan.method.train()
        run.history.append(row)
        logged = {k: v for k, v in row.items() if not isinstance(v, list)}
        logged |= self._pace.lap(run.step, plan.images_per_step)
        if calls.watch is not None and (last or epoch % calls.watch.every == 0):
            logged |= calls.watch(plan.method, epoch)
        if calls.tracker is not None and self._machine.rank == 0:
            calls.tracker.log_epoch(epoch, logged)
        return row

    def labeled_pass(self, epoch: int) -> None:
        """Call the method's labeled pass, if it has one."""
        if self._plan.method.labeled_pass_views is not None:
            assert self._calls.labeled_batches is not None, "a method with a labeled pass needs the labeled batches"
            with self._machine.compute.evaluating():
                self._plan.method.labeled_pass(epoch, self._calls.labeled_batches(epoch))
