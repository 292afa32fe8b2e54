"""Transfer of batches (and errors) from a worker process to its parent.

Batches are in shared memory (`ssfer.core.shared_bytes`) that is reused. torch sends every tensor in new shared memory,
whose pages the kernel has to find, clear and map, which costs as much as decoding on some machines. Here the parent
marks the memory itself as free when no batch uses it any more, and the worker fills it anew. A batch in use is never
overwritten: the worker takes other memory.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ssfer.core.errors import SsferError
from ssfer.core.shared_bytes import SharedBytes

# The first byte of each block of memory is 1 from when the worker takes it until the parent is done with the batch.
_HEADER = 64
# Most blocks of one size that a worker keeps: for the 2 batches it may be ahead by, and for those in use.
_KEPT = 6


class ErrorInWorker(SsferError):
    """An SsferError that stays one sentence: torch builds the parent's error from the type and a whole traceback."""

    def __init__(self, text: str) -> None:
        super().__init__(text.rsplit(f"{type(self).__name__}: ", 1)[-1].strip())


class Pool:
    """A worker's shared memory. It is not thread-safe."""

    def __init__(self) -> None:
        self._kept: dict[int, list[SharedBytes]] = {}
        self._taken: dict[int, SharedBytes] = {}

    def take(self, size: int) -> Tensor:
        """Return `size` unused bytes, uint8 (size,), to be filled and passed to `pack` as part of a batch."""
        kept = self._kept.setdefault(size, [])
        piece = next((p for p in kept if not p.array[0]), None)
        if piece is None:
            piece = SharedBytes(_HEADER + size)
            if len(kept) < _KEPT:
                kept.append(piece)
        piece.array[0] = 1
        room = torch.from_numpy(piece.array[_HEADER:])
        self._taken[room.untyped_storage().data_ptr()] = piece
        return room

    def pack(self, batch: Mapping[str, Tensor]) -> Parcel:
        """Return the batch as a `Parcel`, pickled as a reference to the memory; other tensors are sent as bytes."""
        return Parcel({k: (v, self._taken.pop(v.untyped_storage().data_ptr(), None)) for k, v in batch.items()})


class Parcel:
    """Pickled by a worker; what its parent unpickles is a plain dict of tensors."""

    def __init__(self, content: Mapping[str, tuple[Tensor, SharedBytes | None]]) -> None:
        self._content = content

    def __reduce__(self) -> tuple[Any, ...]:
        sent = {
            name: tensor.numpy() if piece is None else (piece, tensor.dtype, tensor.shape, tensor.stride())
            for name, (tensor, piece) in self._content.items()
        }
        return _unpack, (sent,)


class BatchDataset(Dataset[dict[str, Tensor]], ABC):
    """Map-style data set whose items are whole batches, which worker processes send in shared memory."""

    def __init__(self) -> None:
        self._pool: Pool | None = None  # of a worker

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of batches."""

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Return batch i; in a worker process a `Parcel`, which its parent unpickles as the batch."""
        if get_worker_info() is None:
            return self._batch(i)
        if self._pool is None:
            self._pool = Pool()
        try:
            return cast(dict[str, Tensor], self._pool.pack(self._batch(i)))
        except SsferError as error:
            raise ErrorInWorker(str(error)) from None

    @abstractmethod
    def _batch(self, i: int) -> dict[str, Tensor]:
        """Return batch i; large tensors are made in `_pool` if there is one."""


def _unpack(sent: Mapping[str, Any]) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else _borrow(*v) for k, v in sent.items()}


def _borrow(piece: SharedBytes, dtype: torch.dtype, shape: torch.Size, stride: tuple[int, ...]) -> Tensor:
    """Return the filled part of a block as a tensor; when it and all its views are deleted, the block is free again."""
    filled = piece.array[_HEADER:]
    weakref.finalize(filled, piece.array.__setitem__, 0, 0).atexit = False
    return torch.from_numpy(filled).view(dtype).as_strided(shape, stride)
