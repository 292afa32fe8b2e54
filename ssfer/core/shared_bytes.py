"""Bytes that several processes map into their memory, without /dev/shm.

Containers often have 64 MB of /dev/shm (Docker's default), which a few batches fill. Anonymous memory of the kernel has
no such limit; where the system has none (macOS), an unlinked temporary file takes its place.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
from numpy.typing import NDArray


class SharedBytes:
    """A block of memory; pickled between processes it is one file descriptor, whatever its size.

    Attributes:
        array: uint8 (size,), the same memory in every process that has the object; zeros at first.
    """

    def __init__(self, size: int) -> None:
        descriptor = _anonymous_file()
        os.ftruncate(descriptor, max(size, 1))
        self._map(descriptor, size)

    def __getstate__(self) -> dict[str, Any]:
        return {"descriptor": DupFd(self._descriptor), "size": len(self.array)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._map(state["descriptor"].detach(), state["size"])

    def _map(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self.array: NDArray[np.uint8] = np.frombuffer(mmap.mmap(descriptor, max(size, 1)), np.uint8, size)


def _anonymous_file() -> int:
    """Return a descriptor of an empty file without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("ssfer")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
