"""Values gathered from all processes of a torchrun launch; a single process needs no launcher."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def of_all_processes(values: Tensor) -> Tensor:
    """Return the rows (N, ...) of all processes as (world * N, ...), in the same order in each; all have the same N."""
    if not torch.distributed.is_initialized():
        return values
    parts = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def interleaved(own: NDArray[Any], rank: int, world: int) -> NDArray[Any] | None:
    """Return the rows (N, ...) that the processes share, in the first process; None in the others.

    Args:
        own: (n, ...), rows rank, rank + world, rank + 2 world, ... of the whole.
        rank, world: number of this process and how many there are.
    """
    if world == 1:
        return own
    parts: list[Any] | None = [None] * world if rank == 0 else None
    torch.distributed.gather_object(own, parts)
    if parts is None:
        return None
    whole = np.empty((sum(map(len, parts)), *own.shape[1:]), own.dtype)
    for first, part in enumerate(parts):
        whole[first::world] = part
    return whole


def leave_processes() -> None:
    """End the connection to the other processes of the launch at a stage's regular end, as NCCL asks for."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def joined(parts: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Concatenate the tensors noted in the parts of a step, entry by entry, with the rows of all processes.

    Args:
        parts: one tuple of tensors (rows, ...) per part of the step.
    """
    return [of_all_processes(torch.cat(part)) for part in zip(*parts, strict=True)]
