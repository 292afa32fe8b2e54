"""Temperature scaling: one number that makes a classifier's confidence agree with its accuracy.

Guo et al. 2017 (arXiv 1706.04599), section 4.2: the logits are divided by T > 0, which maximizes the likelihood of the
validation images. The order of the classes, and so the accuracy, does not change.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from ssfer.evaluation.metrics import DIGITS, Floats, Ints, cross_entropy

# Few validation images that are all correct would give T = 0, all wrong ones infinity.
BOUNDS = (0.2, 10.0)


def calibrated(probs: Floats, temperature: float) -> npt.NDArray[np.float64]:
    """Return the probabilities (N, K) of the same logits at another temperature.

    Logarithms of probabilities are logits up to a constant per row, which has no effect.
    """
    logits = np.log(np.maximum(np.asarray(probs, np.float64), np.finfo(np.float64).tiny)) / temperature
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return found


def fit_temperature(probs: Floats, labels: Ints) -> float:
    """Return the temperature within BOUNDS with the highest likelihood of the labels; 1 without images.

    Args:
        probs: (N, K) of images that the network was not trained on, at temperature 1.
        labels: (N,).
    """
    if len(labels) == 0:
        return 1.0
    # In 1/T the loss is convex, in log T it has the same single minimum.
    low, high = map(math.log, BOUNDS)
    found = minimize_scalar(
        lambda log_t: cross_entropy(calibrated(probs, math.exp(log_t)), labels),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return round(math.exp(float(found.x)), DIGITS)
