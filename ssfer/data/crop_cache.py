"""Decoded crops in memory, shared by all processes of a loader."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssfer.core.shared_bytes import SharedBytes


class CropCache:
    """The pixels of all crops of a data set, one after the other in one block of memory.

    Forked workers share it; workers started otherwise map the same memory, by one file descriptor for all crops.

    Args:
        sides: of the square crops, pixels (N,).
        decode: index -> pixels, uint8 (3, S, S), channels last in memory; called once for each crop.
    """

    def __init__(self, sides: NDArray[np.int32], decode: Callable[[int], Tensor]) -> None:
        self._sides = sides
        self._ends = np.cumsum(3 * sides.astype(np.int64) ** 2)
        self._memory = SharedBytes(int(self._ends[-1]) if len(sides) else 0)
        for i in range(len(sides)):
            self[i].copy_(decode(i))

    def __getitem__(self, i: int) -> Tensor:
        """Return crop i, uint8 (3, S, S), channels last in memory; do not write to it."""
        side, end = int(self._sides[i]), int(self._ends[i])
        pixels = self._memory.array[end - 3 * side * side : end]
        return torch.from_numpy(pixels).view(side, side, 3).permute(2, 0, 1)
