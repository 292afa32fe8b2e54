"""The loader that training and inference read their batches with: same batches and order with any number of workers."""

import signal
from collections.abc import Generator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ssfer.core.process import StopRequest
from ssfer.data.shared_memory import BatchDataset
from ssfer.train.device import Machine


def loader(
    batches: BatchDataset, order: range, machine: Machine, generator: torch.Generator | None = None
) -> DataLoader[dict[str, Tensor]]:
    """Return a loader of some batches, prepared by `machine.num_workers` processes; pinned for CUDA.

    A single batch is prepared by this process, because a worker would not be faster.

    Args:
        batches: any worker can make any of them.
        order: the numbers of the batches.
        machine: device and workers.
        generator: what torch draws the workers' seeds from, which no batch depends on; None: torch's global one.
    """
    workers = min(machine.num_workers, len(order)) if len(order) > 1 else 0
    return DataLoader(
        batches,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        multiprocessing_context=machine.start_method() if workers else None,
        pin_memory=machine.device.type == "cuda",
        worker_init_fn=_outlive_signals,
        generator=generator,
    )


def read(made: DataLoader[dict[str, Tensor]]) -> Generator[dict[str, Tensor], None, None]:
    """Yield a loader's batches; its workers end with the generator, also when it is closed or fails.

    Otherwise the traceback of an error would keep the loader and its workers. They ignore SIGTERM, so this process
    would wait for them forever.
    """
    batches = iter(made)
    try:
        yield from batches
    finally:
        end = getattr(batches, "_shutdown_workers", None)
        if end is not None:
            end()


def _outlive_signals(worker: int) -> None:
    """Ignore the signals that a cluster sends to all processes: workers go on until their parent has a snapshot."""
    for number in StopRequest.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
