"""Randomness as pure functions: what is drawn depends on (seed, epoch, position), never on who draws or when.

So an interrupted run continues with the same numbers, and N ranks draw what one rank would.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Drawn = TypeVar("Drawn")


def derive(*parts: int | str) -> int:
    """Return a 63-bit integer that depends on all parts (fits a signed int64)."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass
class _Part:
    """The part of a step's batch that is computed now: the batch's seed, and the part's number over all processes."""

    seed: int = 0
    number: int = 0


_part = _Part()


@contextmanager
def seeded_part(seed: int, number: int) -> Iterator[None]:
    """Seed torch for one part of a step's batch, so that dropout and noise differ from part to part.

    Args:
        seed: of the step.
        number: of the part, counted over all processes; part 0 draws what an undivided batch would.
    """
    torch.manual_seed(derive(seed, "part", number) if number else seed)
    _part.seed, _part.number = seed, number
    try:
        yield
    finally:
        _part.number = 0


def once_a_batch(draw: Callable[[], Drawn]) -> Drawn:
    """Return what `draw` draws from the CPU's generator; all parts of a batch get the same value.

    Call it before anything else is drawn in a forward pass.
    """
    generator, own = torch.default_generator, draw()
    if not _part.number:
        return own
    state = generator.get_state()
    generator.manual_seed(_part.seed)
    try:
        return draw()
    finally:
        generator.set_state(state)


def sample_key(seed: int, epoch: int, position: int, view: str) -> int:
    """Return the key from which everything random about one view of one sample is drawn."""
    return derive(seed, epoch, position, view)


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the order of n samples in one epoch."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)


def counter_uniform(keys: Tensor, n: int) -> Tensor:
    """Return n uniform numbers in [0, 1) for each key, on the keys' device, without any generator state.

    The finalizer of SplitMix64 (Steele et al. 2014) applied to key + i * golden ratio.

    Args:
        keys: (B,) int64.

    Returns:
        (B, n) float32, multiples of 2^-24.
    """
    golden, c1, c2 = (v - 2**64 for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
    z = keys[:, None] + torch.arange(1, n + 1, device=keys.device) * golden
    z = (z ^ _shift(z, 30)) * c1
    z = (z ^ _shift(z, 27)) * c2
    z = z ^ _shift(z, 31)
    return _shift(z, 40).float() * 2.0**-24


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
