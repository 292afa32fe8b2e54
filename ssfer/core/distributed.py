"""Tensors of all processes of a torchrun launch; one process is a launch, too."""

from collections.abc import Sequence

import torch
from torch import Tensor


def of_all_processes(values: Tensor) -> Tensor:
    """Return the rows of all processes, in the same order everywhere; each has equally many."""
    if not torch.distributed.is_initialized():
        return values
    parts = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def leave_processes() -> None:
    """End the connection to the other processes of the launch at a stage's regular end, as NCCL asks for."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def joined(parts: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Return each entry of what was noted in a step's parts in one tensor, with the rows of all processes."""
    return [of_all_processes(torch.cat(part)) for part in zip(*parts, strict=True)]
