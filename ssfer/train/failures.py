"""Failures of the machine during training as sentences: lost processes, killed workers, no memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ssfer.core.errors import SsferError
from ssfer.train.device import Machine

WORKER_DIED = "DataLoader worker"


@contextmanager
def explained(machine: Machine, newest: Callable[[], str]) -> Iterator[None]:
    """Turn torch's errors about failures of the machine into a sentence.

    Args:
        machine: its processes, device and settings.
        newest: returns the name of the last snapshot.

    Raises:
        SsferError: instead of torch's error: no memory on the device, a loader's worker was killed, another process of
            the launch has ended.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SsferError(
            f"{_too_large(machine)}; last snapshot: {newest()}, the same command continues there"
        ) from error
    except RuntimeError as error:
        text = str(error)
        if WORKER_DIED in text:
            raise SsferError(
                f"a process that prepares batches was killed ({_cause(text)}); give the container more memory, or set "
                f"machine.num_workers below {machine.num_workers} (0: none); last snapshot: {newest()}"
            ) from error
        lost = isinstance(error, torch.distributed.DistError) or "gloo" in text.lower() or "nccl" in text.lower()
        if machine.world == 1 or not lost:
            raise
        raise SsferError(
            f"another process of this launch has ended; last snapshot: {newest()}, the same command continues there"
        ) from error


def _too_large(machine: Machine) -> str:
    limit = machine.params.max_batch
    advice = "set machine.max_batch, which is null" if limit is None else f"lower machine.max_batch, which is {limit}"
    return f"the memory of {machine.device} is too small for a step; {advice}: the batch is then computed in parts"


def _cause(text: str) -> str:
    if "Bus error" in text:
        return "no shared memory left: docker run --shm-size=8g, or an emptyDir of medium Memory at /dev/shm"
    return "most likely for lack of memory"
