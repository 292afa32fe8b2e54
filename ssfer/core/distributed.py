"""Tensors gathered from all processes of a torchrun launch; a single process needs no launcher."""

from collections.abc import Sequence

import torch
from torch import Tensor


def of_all_processes(values: Tensor) -> Tensor:
    """Return the rows (N, ...) of all processes as (world * N, ...), in the same order in each; all have the same N."""
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
    """Concatenate the tensors noted in the parts of a step, entry by entry, with the rows of all processes.

    Args:
        parts: one tuple of tensors (rows, ...) per part of the step.
    """
    return [of_all_processes(torch.cat(part)) for part in zip(*parts, strict=True)]
