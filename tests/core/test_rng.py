"""ssfer.core.rng: pure functions of their arguments, an integer oracle, pinned values."""

from __future__ import annotations

import itertools
import random
import statistics

import numpy as np
import pytest
import torch

from ssfer.core.rng import counter_uniform, derive, epoch_order, once_a_batch, sample_key, seeded_part

MASK = 2**64 - 1


def splitmix_uniform(key: int, i: int) -> float:
    """SplitMix64's finaliser on key + i * golden ratio, in Python's integers; the upper 24 bits as a fraction."""
    z = (key + i * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    z ^= z >> 31
    return (z >> 40) / 2**24


def test_counter_uniform_agrees_with_integer_arithmetic() -> None:
    keys = [0, 1, 2**62 + 12345, 2**63 - 1, -1, -(2**63)]
    drawn = counter_uniform(torch.tensor(keys), 50)
    expected = [[splitmix_uniform(key & MASK, i) for i in range(1, 51)] for key in keys]
    assert drawn.dtype == torch.float32
    assert drawn.tolist() == expected  # exact: multiples of 2^-24


def test_counter_uniform_of_a_key_does_not_depend_on_the_other_keys() -> None:
    keys = torch.tensor([derive(1, i) for i in range(6)])
    together = counter_uniform(keys, 16)
    assert torch.equal(together[3:4], counter_uniform(keys[3:4], 16))
    assert torch.equal(together.flip(0), counter_uniform(keys.flip(0), 16))


def test_counter_uniform_is_uniform_and_uncorrelated() -> None:
    drawn = counter_uniform(torch.tensor([sample_key(2024, 0, i, "") for i in range(400)]), 196)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = torch.histc(drawn, bins=10, min=0, max=1) / drawn.numel()
    assert (counts - 0.1).abs().max() < 0.005  # standard error 0.001
    between_keys = torch.corrcoef(torch.stack([drawn[:-1].flatten(), drawn[1:].flatten()]))[0, 1]
    within_a_key = torch.corrcoef(torch.stack([drawn[:, :-1].flatten(), drawn[:, 1:].flatten()]))[0, 1]
    assert abs(between_keys) < 0.02
    assert abs(within_a_key) < 0.02


def test_derived_values_are_pinned() -> None:
    # A change of these numbers changes every mask, crop and weight initialisation of every run.
    assert derive(2024, "init") == 84652139691808284
    assert sample_key(2024, 3, 17, "w") == 6077545688472686692
    assert epoch_order(2024, 0, 8).tolist() == [0, 4, 5, 7, 3, 2, 6, 1]


def test_derived_values_differ_and_fit_int64() -> None:
    values = [derive(seed, name, step) for seed in range(10) for name in ("a", "b") for step in range(50)]
    assert len(set(values)) == len(values)
    assert all(0 <= v < 2**63 for v in values)
    assert statistics.mean(v / 2**63 for v in values) == pytest.approx(0.5, abs=0.05)


def test_sample_key_depends_on_each_of_its_parts() -> None:
    parts = itertools.product((0, 1), (0, 1), (0, 1), ("", "w", "s"))
    keys = [sample_key(*p) for p in parts]
    assert len(set(keys)) == 24


@pytest.mark.parametrize("n", [1, 2, 100])
def test_epoch_order_is_a_permutation(n: int) -> None:
    assert sorted(epoch_order(derive(7), 3, n).tolist()) == list(range(n))


def test_epoch_order_is_repeatable_and_differs_between_epochs_and_seeds() -> None:
    order = epoch_order(1, 0, 50).tolist()
    assert epoch_order(1, 0, 50).tolist() == order
    assert epoch_order(1, 1, 50).tolist() != order
    assert epoch_order(2, 0, 50).tolist() != order


def test_nothing_here_touches_a_global_generator() -> None:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    epoch_order(1, 0, 50)
    counter_uniform(torch.tensor([derive(1)]), 5)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1][1])
    assert np.random.get_state()[2] == before[1][2]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_parts_of_a_batch_share_what_is_drawn_once_and_differ_in_the_rest() -> None:
    def drawn(seed: int, number: int) -> tuple[float, float]:
        with seeded_part(seed, number):
            return once_a_batch(lambda: torch.rand(()).item()), torch.rand(()).item()

    torch.manual_seed(7)
    uncut = (torch.rand(()).item(), torch.rand(()).item())
    parts = [drawn(7, number) for number in range(4)]
    assert parts[0] == uncut
    assert {once for once, _ in parts} == {uncut[0]}
    assert len({noise for _, noise in parts}) == 4
    assert drawn(8, 1)[0] != uncut[0]


def test_after_a_part_draws_are_torchs_own_again() -> None:
    with seeded_part(7, 3):
        pass
    torch.manual_seed(1)
    expected = torch.rand(()).item()
    torch.manual_seed(1)
    assert once_a_batch(lambda: torch.rand(()).item()) == expected
