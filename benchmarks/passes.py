"""The passes of a training step: taken down call by call, then done again without the method around them.

A pass is a call of a module that has weights, not from within another one: networks, averages, heads beside them.
Hooks see the calls, and of which of their outputs a gradient was taken; a method is asked nothing. First derivatives
only.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from ssfer.core.errors import SsferError
from ssfer.methods.base import Batch, Method


@dataclass
class Call:
    """A call of a module with weights, and what became of its outputs (numbered in order, tensors only).

    Attributes:
        path: the module's name within the method.
        args, kwargs: what it was given; tensors are cut off from what made them and still say if they need a gradient.
        grad, training: whether gradients were on, and the module in training mode.
        autocast: whether matrix products were in lower precision.
        inner: output -> how often its gradient was taken while the loss was computed (torch.autograd.grad).
        outer: the outputs that the loss's own gradient reached.
    """

    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    grad: bool
    training: bool
    autocast: bool
    inner: Counter[int] = field(default_factory=Counter)
    outer: set[int] = field(default_factory=set)

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors it was given."""
        return list(_tensors((self.args, self.kwargs)))

    @property
    def images(self) -> int:
        """How many images (B, 3, H, W) it was given."""
        return sum(len(x) for x in self.inputs if x.ndim == 4)

    @property
    def inner_passes(self) -> int:
        """How many backward passes it saw while the loss was computed."""
        return max(self.inner.values(), default=0)


def record(method: Method, step: Callable[[], object]) -> list[Call]:
    """Run a step of a method and return its passes in order; the method keeps the hooks, so it should be a copy.

    Raises:
        SsferError: a gradient within the forward pass that is not of a pass's inputs: it cannot be done again.
    """
    calls: list[Call] = []
    state = {"depth": 0, "in loss": False}

    def enter(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if state["depth"] == 0:
                device = next(module.parameters()).device.type
                modes = torch.is_grad_enabled(), module.training, torch.is_autocast_enabled(device)
                calls.append(Call(path, _cut_off(args), _cut_off(kwargs), *modes))
            state["depth"] += 1

        return hook

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        state["depth"] -= 1
        if state["depth"] == 0:
            for i, out in enumerate(_tensors(output)):
                if out.requires_grad:
                    out.register_hook(reached(calls[-1], i))

    def reached(call: Call, i: int) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if state["in loss"]:
                call.inner[i] += 1
            else:
                call.outer.add(i)

        return hook

    def loss_begins(module: nn.Module, args: tuple[Any, ...]) -> None:
        state["in loss"] = True

    def loss_ends(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        state["in loss"] = False

    method.register_forward_pre_hook(loss_begins)
    method.register_forward_hook(loss_ends)
    for path, module in method.named_modules():
        if module is not method and any(True for _ in module.parameters()):
            module.register_forward_pre_hook(enter(path), with_kwargs=True)
            module.register_forward_hook(leave)
    step()
    for call in calls:
        if call.inner and not any(x.requires_grad for x in call.inputs):
            raise SsferError(
                f"{type(method).__name__} takes a gradient to weights of '{call.path}' within its forward pass, which "
                "this benchmark cannot repeat; expected gradients to a pass's inputs"
            )
    return calls


def passes_only(method: Method, calls: Sequence[Call]) -> Method:
    """Return a copy of a method that does these passes and nothing else; its loss is plain, nothing follows a step.

    Every pass has the same inputs, modes and gradients as when it was taken down; where a gradient was taken of an
    output, here it is that of its mean square.
    """

    def forward(peer: Method, batch: Batch) -> dict[str, Tensor]:
        losses = [loss for call in calls if (loss := _again(peer, call)) is not None]
        return {"loss": torch.stack(losses).sum()}

    def after_step(peer: Method, step: int) -> None:
        pass

    peer = copy.deepcopy(method)
    peer.forward = MethodType(forward, peer)  # type: ignore[method-assign]  # of the same class: trained alike
    peer.after_step = MethodType(after_step, peer)  # type: ignore[method-assign]
    return peer


def _again(method: Method, call: Call) -> Tensor | None:
    """Repeat a pass; return the loss whose gradient the step's own backward pass takes, None: it reaches nothing."""
    module = method.get_submodule(call.path)
    args, kwargs = _cut_off(call.args), _cut_off(call.kwargs)  # afresh, so that no gradient is added to another one
    training = module.training
    if training != call.training:
        module.train(call.training)
    with (
        torch.set_grad_enabled(call.grad),
        torch.autocast(next(module.parameters()).device.type, enabled=call.autocast),
    ):
        outputs = list(_tensors(module(*args, **kwargs)))
    if training != call.training:
        module.train(training)
    needed = [x for x in _tensors((args, kwargs)) if x.requires_grad]
    for left in reversed(range(call.inner_passes)):
        torch.autograd.grad(_plain(outputs, call.inner), needed, retain_graph=bool(left or call.outer))
    return _plain(outputs, call.outer) if call.outer else None


def _plain(outputs: Sequence[Tensor], which: Counter[int] | set[int]) -> Tensor:
    return torch.stack([outputs[i].float().square().mean() for i in sorted(which)]).sum()


def _cut_off(value: Any) -> Any:
    """Return arguments whose tensors share their values with the given ones but no graph."""
    if isinstance(value, Tensor):
        return value.detach().requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {key: _cut_off(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_cut_off(item) for item in value)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of arguments or outputs, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
