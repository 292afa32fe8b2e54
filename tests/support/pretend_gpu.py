"""A pretended GPU: tensors that say they are on cuda:0 while the CPU computes them.

It holds Python code to CUDA's rules: a host tensor of one dimension or more beside one of the device is an error, and
everything that makes the host wait for the device (reading a value, boolean indices, copies that block) is counted.
Autocast for CUDA becomes the CPU's. What C++ does by itself (backward passes, kernels, streams, NCCL) is not covered.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as tree

GPU = torch.device("cuda", 0)
# Functions whose result has a size, or is a value, that the host has to know.
WAITING = {
    "item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "nonzero", "argwhere", "bincount",
    "masked_select", "unique", "unique_consecutive", "equal", "allclose", "is_nonzero",
}  # fmt: skip
COPIES = {"copy_", "to", "cpu", "cuda", "_foreach_copy_"}  # may see both sides
INDEXING = {"__getitem__", "__setitem__", "index_put_", "index_put"}


class OnGpu(Tensor):
    """A tensor of the pretended device; everything computed from it is one, too."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:  # a snapshot of a real one can be read without a GPU as well
        return self.as_subclass(Tensor).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> Any:
        copied = _on_gpu(self.as_subclass(Tensor).detach().clone().requires_grad_(self.requires_grad))
        if isinstance(self, nn.Parameter):
            copied.__class__ = OnGpuParameter
        memo[id(self)] = copied
        return copied


class OnGpuParameter(OnGpu, nn.Parameter):
    """A parameter there; `Module.to` turns parameters into it in place, so that optimizers keep theirs."""


class Gpu(TorchFunctionMode):
    """While it is on, `device="cuda"` makes pretended tensors.

    Attributes:
        waits: what made the host wait, with the number of times; only while `counting`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.counting = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        global _active
        _active = self
        return _call(func, args, kwargs or {})

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """Count from here to the end of the block."""
        self.waits, self.counting = Counter(), True
        try:
            yield self.waits
        finally:
            self.counting = False

    def note(self, what: str) -> None:
        """Count something that makes the host wait, with the line of ssfer it comes from."""
        if self.counting:
            places = [f for f in traceback.extract_stack() if "/ssfer/" in f.filename]
            where = f" at {Path(places[-1].filename).name}:{places[-1].lineno}" if places else ""
            self.waits[what + where] += 1


_active: Gpu | None = None


def _on_gpu(value: Tensor) -> OnGpu:
    return value.as_subclass(OnGpu)


def _call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = getattr(func, "__name__", str(func))
    if func is torch.device:
        return func(*args, **kwargs)
    if name == "pin_memory":  # needs a driver
        return args[0]
    if name == "__get__":
        return _attribute(func, args)
    flat = [*_leaves(args), *_leaves(kwargs)]  # torch's own walk takes half of a test
    ours = [value for value in flat if isinstance(value, OnGpu)]
    host = [value for value in flat if isinstance(value, Tensor) and not isinstance(value, OnGpu)]
    target = _target(name, args, kwargs)
    if ours and name not in COPIES:
        _check_sides(name, args, host)
    if _active is not None and (ours or target == "cuda"):
        _count(name, args, kwargs, ours, host, target)
    if any(_without_device(value) is not value for value in flat):
        args, kwargs = tree.tree_map(_without_device, (args, kwargs))
    with torch._C.DisableTorchFunctionSubclass():
        out = func(*args, **kwargs)
    if target == "cpu" or name in ("numpy", "tolist", "item"):
        return tree.tree_map(lambda v: v.as_subclass(Tensor) if isinstance(v, OnGpu) else v, out)
    if not ours and target != "cuda":
        return out
    if name == "copy_" and not isinstance(args[0], OnGpu):
        return args[0]
    return _placed(out) if isinstance(out, Tensor) else tree.tree_map(_placed, out)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _placed(value: Any) -> Any:
    return _on_gpu(value) if isinstance(value, Tensor) and not isinstance(value, OnGpu) else value


def _attribute(func: Any, args: Any) -> Any:
    owner = getattr(func, "__self__", None)
    with torch._C.DisableTorchFunctionSubclass():
        value = func(*args)
    if not isinstance(args[0], OnGpu):
        return value
    name = getattr(owner, "__name__", "")
    if name == "device":
        return GPU
    if name == "is_cuda":
        return True
    if name == "is_cpu":
        return False
    return _on_gpu(value) if isinstance(value, Tensor) else value


def _target(name: str, args: Any, kwargs: dict[str, Any]) -> str | None:
    """Return the device that a call names, "cuda" or "cpu"; None: none."""
    if name in ("cpu", "cuda"):
        return name
    values = [kwargs.get("device"), *(args[1:] if name == "to" else ())]
    for value in values:
        if isinstance(value, torch.device):
            return value.type
        if isinstance(value, str):
            return torch.device(value).type
        if isinstance(value, Tensor) and name == "to":
            return "cuda" if isinstance(value, OnGpu) else "cpu"
    return None


def _check_sides(name: str, args: Any, host: list[Tensor]) -> None:
    """Refuse what CUDA refuses."""
    if name in INDEXING and isinstance(args[0], OnGpu):
        host = host if name == "__setitem__" else []  # indices may lie on the host
    if wrong := [tuple(value.shape) for value in host if value.dim()]:
        raise RuntimeError(f"expected all tensors on one device: {name} got host tensors {wrong} beside {GPU}")


def _count(
    name: str, args: Any, kwargs: dict[str, Any], ours: list[Any], host: list[Tensor], target: str | None
) -> None:
    assert _active is not None
    waits = not (kwargs.get("non_blocking") or (name in ("to", "copy_") and True in [a for a in args if a is True]))
    if ours and name in WAITING:
        _active.note(name)
    if ours and name in INDEXING:
        index = args[1] if isinstance(args[1], (tuple, list)) else [args[1]]
        for part in index:
            if isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8):
                _active.note("boolean index")
            if isinstance(part, Tensor) and not isinstance(part, OnGpu):
                _active.note("index copied to the device")
    if target == "cpu" and ours and waits:
        _active.note("copied to the host")
    if target == "cuda" and waits and (host or (name in ("tensor", "as_tensor") and not ours)):
        _active.note("copied to the device")


def _without_device(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return "cpu" if isinstance(value, str) and value.startswith("cuda") else value


class _Event:
    """Of a stream that is never behind."""

    def record(self, stream: Any = None) -> None: ...

    def synchronize(self) -> None: ...


def _move(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Do what `Module.to` does."""
    target = _target("to", (module, *args), kwargs)
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if target:
                parameter.__class__ = OnGpuParameter if target == "cuda" else nn.Parameter
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = buffer.to(*args, **{k: v for k, v in kwargs.items() if k != "memory_format"})
    return module


@contextmanager
def pretended_gpu() -> Iterator[Gpu]:
    """Let torch see one GPU with bf16; everything is as before afterwards."""
    autocast_init = torch.amp.autocast_mode.autocast.__init__

    def on_cpu(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        autocast_init(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        cuda: dict[str, Any] = {
            "is_available": lambda: True, "device_count": lambda: 1, "is_bf16_supported": lambda *a, **k: True,
            "get_device_name": lambda *a: "Pretended GPU", "set_device": lambda *a: None, "current_device": lambda: 0,
            "synchronize": lambda *a: None, "manual_seed_all": lambda *a: None, "empty_cache": lambda: None,
            "current_stream": lambda *a: None, "Event": _Event, "is_initialized": lambda: False,
            "is_current_stream_capturing": lambda: False,  # PyTorch 2.10 asks the driver
        }  # fmt: skip
        for name, value in cuda.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch.amp.autocast_mode.autocast, "__init__", on_cpu)
        patch.setattr("ssfer.train.device.matmul_rate", lambda *args: 1e12)  # measures, with a generator of the device
        patch.setattr(nn.Module, "to", _move)
        patch.setattr(torch.accelerator, "is_available", lambda: False)  # a loader would pin memory with it
        AcceleratorState._reset_state(reset_partial_state=True)  # it keeps a process's first device
        try:
            with Gpu() as gpu:
                yield gpu
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
