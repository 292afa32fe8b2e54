"""How a batch is cut into equal parts, over processes and over what fits into memory at once."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssfer.core.errors import SsferError


def part_of_batch(size: int, part: int, parts: int) -> NDArray[np.int64]:
    """Return which positions of a batch form one of its parts, in order.

    FaceMix pairs a batch with its reverse, so position i stays with its partner size-1-i: a part is a range of the
    front half and the mirrored range of the back half, and its own reverse pairs the same images. Parts of odd size
    cannot hold pairs and are plain ranges.

    Args:
        size: of the batch, a multiple of `parts`.
        part: number of the part, from 0.
        parts: number of parts.

    Returns:
        (size / parts,) positions.
    """
    share = size // parts
    if share % 2:
        return np.arange(part * share, (part + 1) * share)
    front = np.arange(part * share // 2, (part + 1) * share // 2)
    return np.concatenate([front, size - 1 - front[::-1]])


def number_of_parts(sizes: Sequence[int], limit: int | None) -> int:
    """Return into how many parts to cut a process's batch so that no part has more than `limit` images.

    Args:
        sizes: of the streams in the batch; each is cut into equal parts, and streams of even size keep whole pairs.
        limit: most images of a part; None: no limit.

    Raises:
        SsferError: not even the smallest parts fit.
    """
    total = sum(sizes)
    if limit is None or total <= limit:
        return 1
    possible = [n for n in range(1, min(sizes) + 1) if all(s % n == 0 and (s % 2 or s // n % 2 == 0) for s in sizes)]
    for n in possible:
        if total <= n * limit:
            return n
    raise SsferError(
        f"machine.max_batch {limit} is too small: a process's {total} images of a step can be cut into parts "
        f"of {total // possible[-1]} at least"
    )


def cut(batch: Mapping[str, Tensor], part: int, parts: int) -> dict[str, Tensor]:
    """Return one part of a process's batch; every entry is cut along its first dimension."""
    if parts == 1:
        return dict(batch)
    return {k: v[_places(len(v), part, parts, v.device)] for k, v in batch.items()}


@lru_cache(maxsize=4096)
def _places(size: int, part: int, parts: int, device: torch.device) -> Tensor:
    """Return `part_of_batch` on a device; copied there only once, because the host waits for copies to a GPU."""
    return torch.from_numpy(part_of_batch(size, part, parts)).to(device)
