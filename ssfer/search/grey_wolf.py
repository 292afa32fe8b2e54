"""Grey Wolf Optimizer (Mirjalili et al. 2014; SSFER, table 16) in the unit cube; higher scores are better.

A pack of points moves toward the three best points found so far. All randomness is a function of (seed, iteration), so
there is no state to save: a new optimizer that gets the same scores asks for the same points.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssfer.core.errors import SsferError
from ssfer.core.rng import derive

Points = NDArray[np.float64]
Score = tuple[float, ...]  # compared from left to right
LEADERS = 3  # alpha, beta, delta


def encircling(iteration: int, iterations: int) -> float:
    """Return a, which falls linearly from 2 before the first move to 0 after the last iteration.

    A is in [-a, a), and steps with |A| > 1 lead away from a leader: the first half explores, the second converges.
    """
    return 2 * (1 - iteration / iterations)


def move(wolves: Points, leaders: Points, a: float, r1: Points, r2: Points) -> Points:
    """Return the pack's next points: A = 2 a r1 - a, C = 2 r2, mean over leaders of X_l - A |C X_l - X|, clipped.

    Args:
        wolves: X, (W, D).
        leaders: X_l, (L, D).
        a: see `encircling`.
        r1, r2: (L, W, D), uniform in [0, 1).
    """
    best = leaders[:, None]
    distance = np.abs(2 * r2 * best - wolves)
    toward: Points = best - (2 * a * r1 - a) * distance
    return toward.mean(axis=0).clip(0, 1)


class GreyWolf:
    """The optimizer: `ask` for points and `tell` their scores until `done`.

    Args:
        wolves: points per iteration, W, at least 3.
        iterations: number of times that the whole pack is scored.
        dims: D.
        seed: of all draws.

    Raises:
        SsferError: fewer wolves than leaders.
    """

    def __init__(self, wolves: int, iterations: int, dims: int, seed: int) -> None:
        if wolves < LEADERS:
            raise SsferError(f"grey wolves follow {LEADERS} leaders, so at least {LEADERS} are needed, found {wolves}")
        self.iterations, self.iteration, self._seed = iterations, 0, seed
        self._wolves = self._uniform(wolves, dims)
        self._leaders: list[tuple[Score, Points]] = []

    @property
    def done(self) -> bool:
        """Whether the scores of the last iteration are known."""
        return self.iteration == self.iterations

    def ask(self) -> Points:
        """Return the points to score, (W, D) in [0, 1]."""
        return self._wolves.copy()

    def tell(self, scores: Sequence[Score]) -> None:
        """Take the scores of the points of `ask` and move the pack; of equal scores the earlier point leads."""
        if len(scores) != len(self._wolves):
            raise ValueError(f"{len(scores)} scores for {len(self._wolves)} wolves")
        found = [*self._leaders, *zip(scores, self._wolves, strict=True)]
        self._leaders = sorted(found, key=lambda pair: pair[0], reverse=True)[:LEADERS]  # stable, reversed or not
        a = encircling(self.iteration, self.iterations)
        self.iteration += 1
        leaders = np.stack([point for _, point in self._leaders])
        r1, r2 = self._uniform(2, LEADERS, *self._wolves.shape)
        self._wolves = move(self._wolves, leaders, a, r1, r2)

    def _uniform(self, *shape: int) -> Points:
        return np.random.Generator(np.random.Philox(derive(self._seed, "grey wolf", self.iteration))).random(shape)
