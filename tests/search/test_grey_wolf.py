"""The grey-wolf optimizer: hand values, a slow oracle, convergence, bounds; and the held-out part that scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch

from ssfer.core.errors import SsferError
from ssfer.core.rng import derive
from ssfer.search.grey_wolf import GreyWolf, Score, encircling, move
from ssfer.search.holdout import draw_holdout

Point = list[float]


def test_a_falls_linearly_from_two_to_zero() -> None:
    assert [encircling(t, 10) for t in (0, 5, 10)] == [2, 1, 0]
    assert encircling(9, 10) == pytest.approx(0.2)


def test_move_is_what_the_formula_gives_by_hand() -> None:
    # a = 1: A = 2 r1 - 1 = 0.5, -0.5, 0; C = 2 r2 = 1, 1.5, 0.2
    # |C X_l - X| = |0.5 - 0.2|, |0.9 - 0.2|, any; X_l - A * that = 0.35, 0.95, 0.4; mean 1.7 / 3
    leaders = np.array([[0.5], [0.6], [0.4]])
    r1, r2 = np.array([[[0.75]], [[0.25]], [[0.5]]]), np.array([[[0.5]], [[0.75]], [[0.1]]])
    assert move(np.array([[0.2]]), leaders, 1.0, r1, r2) == pytest.approx(np.array([[1.7 / 3]]))
    # a = 2, r1 = 0: A = -2, C = 2: 0.5 + 2 |1.0 - 0.2| = 2.1, 0.6 + 2 * 1.0, 0.4 + 2 * 0.6: clipped to 1
    assert move(np.array([[0.2]]), leaders, 2.0, np.zeros((3, 1, 1)), np.ones((3, 1, 1))) == 1
    assert move(np.array([[0.2]]), leaders, 2.0, np.ones((3, 1, 1)), np.ones((3, 1, 1))) == 0


def run(pack: GreyWolf, score: Callable[[Point], Score]) -> list[list[Point]]:
    """Return the points of all iterations."""
    asked = []
    while not pack.done:
        asked.append(pack.ask().tolist())
        pack.tell([score(point) for point in asked[-1]])
    return asked


def slow(wolves: int, iterations: int, dims: int, seed: int, score: Callable[[Point], Score]) -> list[list[Point]]:
    """The same search number by number."""

    def uniform(iteration: int, *shape: int) -> np.ndarray:
        return np.random.Generator(np.random.Philox(derive(seed, "grey wolf", iteration))).random(shape)

    x = uniform(0, wolves, dims).tolist()
    seen: list[tuple[Score, int, Point]] = []
    asked = []
    for t in range(iterations):
        asked.append([list(point) for point in x])
        for point in x:
            seen.append((score(point), -len(seen), list(point)))  # of equals the earlier
        alpha, beta, delta = (point for _, _, point in sorted(seen, reverse=True)[:3])
        a, draws = 2 - 2 * t / iterations, uniform(t + 1, 2, 3, wolves, dims)
        for w, d in product(range(wolves), range(dims)):
            pulled = []
            for leader, best in enumerate((alpha, beta, delta)):
                big_a, big_c = 2 * a * draws[0, leader, w, d] - a, 2 * draws[1, leader, w, d]
                pulled.append(best[d] - big_a * abs(big_c * best[d] - asked[t][w][d]))
            x[w][d] = min(max(sum(pulled) / 3, 0.0), 1.0)
    return asked


def sphere(point: Point) -> Score:
    return (-math.dist(point, (0.3, 0.6, 0.8)),)


def coarse(point: Point) -> Score:
    """Many ties, a second figure that breaks some of them."""
    return round(sphere(point)[0], 1), round(point[0], 1)


@pytest.mark.parametrize("score", [sphere, coarse, lambda point: (0.0,)])
@pytest.mark.parametrize("seed", [0, 1])
def test_trajectory_is_that_of_the_slow_oracle(score: Callable[[Point], Score], seed: int) -> None:
    found = run(GreyWolf(5, 7, 3, seed), score)
    assert np.shape(found) == (7, 5, 3)
    assert np.array(found) == pytest.approx(np.array(slow(5, 7, 3, seed, score)), abs=1e-12)


def test_what_is_asked_for_is_a_copy() -> None:
    pack = GreyWolf(4, 5, 3, 7)
    pack.ask()[:] = 0
    assert pack.ask().tolist() == GreyWolf(4, 5, 3, 7).ask().tolist()


def test_misuse_is_refused() -> None:
    with pytest.raises(SsferError, match="at least 3 are needed, found 2"):
        GreyWolf(2, 5, 3, 0)
    with pytest.raises(ValueError, match="1 scores for 4 wolves"):
        GreyWolf(4, 5, 3, 0).tell([(0.0,)])


LABELS = [0] * 10 + [1] * 5 + [2] * 1 + [3] * 2


@pytest.mark.parametrize(
    ("share", "expected"), [(0.2, [2, 1, 0, 1]), (0.15, [2, 1, 0, 1]), (0.5, [5, 3, 0, 1]), (0.99, [9, 4, 0, 1])]
)
def test_holdout_takes_its_share_of_each_class_and_leaves_one(share: float, expected: list[int]) -> None:
    kept, held = draw_holdout(LABELS, share, seed=1)
    assert np.bincount(np.array(LABELS)[held], minlength=4).tolist() == expected
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(LABELS)))
    assert kept.tolist() == sorted(kept) and held.tolist() == sorted(held)


def test_holdout_depends_on_seed_and_class_alone_and_moves_no_other_generator() -> None:
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()
    held = draw_holdout(LABELS, 0.3, 1)[1].tolist()
    assert before[0] == np.random.get_state()[1].tolist() and torch.equal(before[1], torch.get_rng_state())
    assert held == draw_holdout(LABELS, 0.3, 1)[1].tolist() != draw_holdout(LABELS, 0.3, 2)[1].tolist()
    # Of class 0 the same images, whatever the other classes have.
    assert draw_holdout(LABELS[:10], 0.3, 1)[1].tolist() == [i for i in held if i < 10]
    # Equally large classes do not lose images at the same places.
    twice = [i % 9 for i in draw_holdout([0] * 9 + [1] * 9, 0.34, 1)[1].tolist()]
    assert twice[:3] != twice[3:]
    # Every image has a chance.
    assert {i for seed in range(60) for i in draw_holdout(LABELS, 0.3, seed)[1].tolist()} == {*range(15), 16, 17}


def test_holdout_of_single_images_is_refused() -> None:
    with pytest.raises(SsferError, match="no class has two of the 3 labeled images"):
        draw_holdout([0, 1, 2], 0.2, 0)
