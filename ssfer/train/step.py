"""One training step: the batch in parts, their gradients, the update, and running averages."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ssfer.core.pixels import normalize
from ssfer.core.rng import derive, seeded_part
from ssfer.data.batch_parts import cut, number_of_parts
from ssfer.train.device import Machine
from ssfer.train.distributed import Trained
from ssfer.train.plan import TrainingPlan


class Step:
    """The training steps of a run.

    Raises:
        SsferError: a batch that cannot be cut to machine.max_batch.
    """

    def __init__(self, plan: TrainingPlan, machine: Machine) -> None:
        self._plan, self._machine = plan, machine
        shares = [stream.batch_size // plan.batches.world for stream in plan.batches.streams]
        self._parts = number_of_parts(shares, machine.params.max_batch)
        self._trained = Trained(plan.method, plan.optimizer, machine)
        self._batch: Mapping[str, Tensor] = {}

    def set_lr(self, step: int) -> float:
        """Set the optimizer's learning rate for a step and return it; groups may have an `lr_scale`."""
        lr = self._plan.lr_at(step / self._plan.batches.steps_per_epoch)
        for group in self._plan.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        return lr

    def gradients(self, step: int, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Accumulate the gradient of the whole batch's mean loss, part by part.

        Returns:
            The method's metrics for the batch of this process, and `grad_norm`.
        """
        moved = self._plan.batches.arrived(batch, self._machine.device)
        outs = self._by_parts(step, moved)
        self._batch = moved if self._plan.method.two_steps else {}
        return {**_combine(outs), "grad_norm": self._trained.grad_norm()}

    def update(self, step: int) -> None:
        """Take the optimizer step, or both of a method with two, then call the method's `after_step`."""
        self._trained.step()
        if self._plan.method.two_steps:
            self._by_parts(step, self._batch, second=True)
            self._trained.step()
            self._batch = {}
        self._plan.method.after_step(step)

    def _by_parts(self, step: int, moved: Mapping[str, Tensor], **which: bool) -> list[dict[str, Tensor]]:
        seed, parts, outs = derive(self._plan.seed, "step", step, 0), self._parts, []
        for part in range(parts):
            with seeded_part(seed, self._machine.rank * parts + part):
                images = self._images(cut(moved, part, parts))
                outs.append(self._trained.gradients(images, 1 / parts, last=part == parts - 1, **which))
        return outs

    def _images(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a batch with normalized images, in the memory layout of the networks."""
        mean, std, layout = self._plan.mean, self._plan.std, self._machine.memory_format
        return {
            name: normalize(value, mean, std).to(memory_format=layout) if name.startswith("x_") else value
            for name, value in batch.items()
        }


def _combine(outs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the metrics of a batch from those of its parts: `*_count` summed, others averaged."""
    if len(outs) == 1:
        return outs[0]
    stacked = {name: torch.stack([out[name] for out in outs]) for name in outs[0]}
    return {k: v.sum(dim=0) if k.endswith("_count") else v.double().mean(dim=0) for k, v in stacked.items()}
