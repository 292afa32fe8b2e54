"""The method as the processes train it: a copy in each of them (DDP), or one copy cut into parts (FSDP)."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ssfer.methods.base import Batch, Method
from ssfer.train.device import Machine


class Trained:
    """Couples a method and its optimizer to the processes of a machine.

    Sharded, parameters, gradients and AdamW's moments are cut over the processes; `method` itself stays whole and
    outside, and `gather` brings it up to date. So snapshots and exports are the same files however they were trained.

    Args:
        method: whole, on any device; with the state to start from.
        optimizer: over the method's parameters; with the state to start from.
    """

    def __init__(self, method: Method, optimizer: torch.optim.Optimizer, machine: Machine) -> None:
        self.method, self.machine = method, machine
        if machine.world > 1 and machine.device.type == "cuda":
            share_norms(method)
        if machine.sharded:
            method.to(machine.device)
            self.module: nn.Module = copy.deepcopy(method)
            self.optimizer = _shard(self.module, method, optimizer, machine)
        else:
            self.module, self.optimizer = machine.accelerator.prepare(method, optimizer)
            if machine.compiled:
                for network in _networks(method):  # not the method: compiled code draws other random numbers
                    network.compile()  # in place, so that the names in its state stay

    def gradients(self, batch: Batch, weight: float, last: bool) -> dict[str, Tensor]:
        """Run forward and backward, return the method's figures.

        Args:
            batch: a part of a step's batch.
            weight: of the part's loss in the step's.
            last: whether gradients are averaged over the processes now; False: more parts follow.
        """
        with self._synchronised(last):
            with self.machine.accelerator.autocast():
                out: dict[str, Tensor] = self.module(batch)
            self.machine.accelerator.backward(out["loss"] * weight)
        return {name: value.detach() for name, value in out.items()}

    def grad_norm(self) -> Tensor:
        """Return the norm of the whole gradient."""
        norm = nn.utils.get_total_norm([p.grad for p in self.module.parameters() if p.grad is not None])
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def after_step(self, step: int) -> None:
        """Let the method follow its student."""
        trained = self.module if self.machine.sharded else self.method
        assert isinstance(trained, Method)
        trained.after_step(step)

    def survey(self, epoch: int, labeled: Callable[[int], Iterable[Batch]] | None) -> None:
        """Let the method look at the labeled images, if it wants to; called by all processes together."""
        if self.method.surveys is None:
            return
        assert labeled is not None, "a method that surveys the labeled images needs them"
        self.gather()
        self.method.survey(epoch, labeled(epoch))
        if self.machine.sharded:
            whole = dict(self.method.named_buffers())
            for name, value in self.module.named_buffers():
                value.copy_(whole[name])

    def train(self) -> None:
        """Switch to training mode."""
        self.module.train()

    def gather(self) -> None:
        """Bring `method` up to date; called by all processes together."""
        if self.machine.sharded:
            whole = self.method.state_dict()
            for name, value in self.module.state_dict().items():
                whole[name].copy_(_full(value))

    def optimizer_state(self) -> dict[str, Any]:
        """Return the whole optimizer's state, to the first process only; called by all processes together."""
        state = self.optimizer.state_dict()
        moments: defaultdict[int, dict[str, Any]] = defaultdict(dict)
        for i, entry in state["state"].items() if self.machine.sharded else ():
            for name, value in entry.items():
                whole = _full(value)  # a collective: one moment at a time is whole
                if self.machine.rank == 0:
                    moments[i][name] = whole.cpu()
        return {**state, "state": dict(moments)} if self.machine.sharded else state

    @contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        if last:
            yield
        elif self.machine.sharded:
            for network in _trained(self.module):
                network.set_requires_gradient_sync(False)  # type: ignore[operator]  # fully_shard adds it
            yield
            for network in _trained(self.module):
                network.set_requires_gradient_sync(True)  # type: ignore[operator]
        else:
            with self.machine.accelerator.no_sync(self.module):
                yield


def share_norms(method: nn.Module) -> None:
    """Let batch norms see the whole batch of a step instead of the own process's part; names in the state stay.

    Their parameters stay the same objects, so an optimizer over them does, too. CUDA only: torch has it for no other.
    """
    for network in method.children():
        convert_sync_batchnorm(network)  # timm's, which knows norms with an activation inside


def _networks(method: nn.Module) -> list[nn.Module]:
    """Return the networks a method calls: each is sharded as a whole of its own."""
    assert isinstance(method, Method)
    return [m for m in dict.fromkeys(method.called()) if next(m.parameters(), None) is not None]


def _trained(method: nn.Module) -> list[nn.Module]:
    """Return what is sharded, each as a whole of its own: the networks, and trained heads beside them."""
    networks = _networks(method)
    inside = {id(p) for network in networks for p in network.parameters()}
    heads = [m for m in method.children() if any(p.requires_grad and id(p) not in inside for p in m.parameters())]
    return networks + heads


def _shard(
    module: nn.Module, method: Method, optimizer: torch.optim.Optimizer, machine: Machine
) -> torch.optim.Optimizer:
    """Shard `module`, a copy of `method`, in place and point the optimizer of `method` at it; its state moves along."""
    names = {id(p): name for name, p in method.named_parameters()}
    mesh = init_device_mesh(machine.device.type, (machine.world,))
    for network in _trained(module):
        for block in network.modules():
            if isinstance(block, Block):
                fully_shard(block, mesh=mesh)
        fully_shard(network, mesh=mesh)
    new = dict(module.named_parameters())
    state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
    for old, entry in optimizer.state.items():
        parameter = new[names[id(old)]]
        state[parameter] = {k: _place(v, parameter) for k, v in entry.items()}
    for group in optimizer.param_groups:
        group["params"] = [new[names[id(p)]] for p in group["params"]]
    optimizer.state = state
    return optimizer


def _place(value: Any, parameter: Tensor) -> Any:
    """Cut a moment like its parameter; AdamW's step count is no larger than one number and stays."""
    if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


def _full(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value
