"""Data-parallel training of a method: each process of a launch holds a whole copy (DDP)."""

from contextlib import nullcontext

import torch
from accelerate import DistributedDataParallelKwargs
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from ssfer.methods.base import Batch, Method
from ssfer.train.device import Machine


class Trained:
    """Couples a method and its optimizer to the processes of a machine.

    Args:
        method: on any device, with the state to start from; trained in place.
        optimizer: over the method's parameters, with the state to start from.
        machine: device, precision and processes.
    """

    def __init__(self, method: Method, optimizer: torch.optim.Optimizer, machine: Machine) -> None:
        self.method, self.machine = method, machine
        if machine.world > 1 and machine.device.type == "cuda":
            share_norms(method)
        method.to(machine.device)
        if machine.memory_format == torch.channels_last:
            method.to(memory_format=torch.channels_last)
        follow_parameters(optimizer)
        if method.two_steps:  # the loss of each step has gradients for some parameters only
            machine.accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.module, self.optimizer = machine.accelerator.prepare(method, optimizer)
        for network in dict.fromkeys(method.called()):  # not the method: compiled code draws other random numbers
            if machine.compiles(network):
                network.compile(dynamic=False)  # in place, so that the names in its state stay

    def gradients(self, batch: Batch, weight: float, last: bool, **which: bool) -> dict[str, Tensor]:
        """Run forward and backward; return the method's metrics, detached.

        Args:
            batch: a part of a step's batch.
            weight: factor of the part's loss.
            last: whether gradients are averaged over the processes now; False: more parts follow.
            which: `second=True` for the second step of a method with two.
        """
        accelerator = self.machine.accelerator
        with nullcontext() if last else accelerator.no_sync(self.module):
            with accelerator.autocast():
                out: dict[str, Tensor] = self.module(batch, **which)
            accelerator.backward(out["loss"] * weight)
        return {name: value.detach() for name, value in out.items()}

    def step(self) -> None:
        """Update the parameters that have a gradient, then clear the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def grad_norm(self) -> Tensor:
        """Return the norm of the whole gradient, after removing the loss scale of fp16."""
        if self.machine.accelerator.scaler is not None:
            self.machine.accelerator.unscale_gradients(self.optimizer)
        return nn.utils.get_total_norm([p.grad for p in self.module.parameters() if p.grad is not None])


def follow_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Move an optimizer's state to its parameters' devices: fused kernels need all of it there, even step counts."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                state[name] = value.to(parameter.device)


def share_norms(method: nn.Module) -> None:
    """Let batch norms use the whole batch of a step instead of this process's part; names in the state dict stay.

    Their parameters stay the same objects, so an optimizer over them stays valid. CUDA only: torch has it for no other
    device.
    """
    for network in method.children():
        convert_sync_batchnorm(network)  # timm's, which knows norms with an activation inside
