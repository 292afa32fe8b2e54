"""Two classifiers compared: how much better one is, and whether chance explains it.

`Paired` compares two runs on the same test images and says nothing about other seeds. `PairedSeeds` compares two
settings over the seeds that both were run with.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t

from ssfer.evaluation.metrics import Z95


@dataclass(frozen=True)
class Paired:
    """A second classifier compared with a first one on N images.

    Attributes:
        gained: images that only the second gets right.
        lost: images that only the first gets right.
        total: N.
    """

    gained: int
    lost: int
    total: int

    @property
    def difference(self) -> float:
        """Accuracy of the second minus that of the first, -1..1."""
        return (self.gained - self.lost) / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference: Wald with half an image added to each of the four counts.

        Source: Agresti and Min 2005, Statistics in Medicine 24, 729-740.
        """
        total, delta = self.total + 2, self.gained - self.lost
        half = Z95 * math.sqrt(self.gained + self.lost + 1 - delta * delta / total) / total
        return max(-1.0, delta / total - half), min(1.0, delta / total + half)

    @property
    def p_value(self) -> float:
        """Two-sided McNemar test, mid-p: how probable a difference this large is if both are equally good.

        Source: Fagerland, Lydersen and Laake 2013, BMC Medical Research Methodology 13:91.
        """
        n, least = self.gained + self.lost, min(self.gained, self.lost)
        below = sum(math.comb(n, k) for k in range(least))
        return min(1.0, (2 * below + math.comb(n, least)) / 2**n)  # exact integers until here


def paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Count the images on which two classifiers differ.

    Args:
        first: per image whether the first classifier is right, `second` likewise; same images, same order.
    """
    pairs = list(zip(first, second, strict=True))
    return Paired(sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs), len(pairs))


@dataclass(frozen=True)
class PairedSeeds:
    """A second setting compared with a first one, seed by seed.

    Attributes:
        differences: figure of the second minus that of the first, a value per shared seed; two or more.
    """

    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean difference."""
        return statistics.fmean(self.differences)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean difference, by Student's t with n - 1 degrees of freedom."""
        half = float(t.ppf(0.975, len(self.differences) - 1)) * self._standard_error
        return self.mean - half, self.mean + half

    @property
    def p_value(self) -> float | None:
        """Two-sided paired t-test; None where all differences are equal, which gives no spread to compare with."""
        if self._standard_error < 1e-9:
            return None
        return float(2 * t.sf(abs(self.mean) / self._standard_error, len(self.differences) - 1))

    @property
    def _standard_error(self) -> float:
        return statistics.stdev(self.differences) / math.sqrt(len(self.differences))


def paired_seeds(first: Mapping[int, float], second: Mapping[int, float]) -> PairedSeeds | None:
    """Return the comparison of two settings over the seeds that both have; None for fewer than two.

    Args:
        first: seed -> figure, `second` likewise.
    """
    shared = sorted(first.keys() & second.keys())
    return PairedSeeds(tuple(second[seed] - first[seed] for seed in shared)) if len(shared) > 1 else None
