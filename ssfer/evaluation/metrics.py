"""Metrics of a classifier: pure functions of class probabilities and true labels.

Shapes: `probs` (N, K) float, rows sum to 1; `labels` (N,) int in 0..K-1. All rates are in 0..1. The recall of a class
without a test image is NaN in arrays, None in `summarize`, and left out of every mean over classes.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ssfer.core.errors import SsferError

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
MIN_PROB = 1e-12  # a certain and wrong prediction costs 27.6 nats, not infinity
ECE_BINS = 15  # as Guo et al. 2017
DIGITS = 6  # of stored numbers


def predictions(probs: Floats) -> Ints:
    """Return the most probable class per row, the first one on a tie: (N,) int."""
    best: Ints = np.asarray(probs).argmax(axis=1)
    return best


def accuracy(probs: Floats, labels: Ints) -> float:
    """Return the share of images whose most probable class is the true one."""
    return float(np.mean(predictions(probs) == labels))


def confusion_matrix(labels: Ints, predicted: Ints, num_classes: int) -> npt.NDArray[np.int64]:
    """Return counts (K, K): row = true class, column = predicted class."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def per_class_recall(probs: Floats, labels: Ints) -> npt.NDArray[np.float64]:
    """Return (K,) recall: correct images of a class / images of that class; NaN for a class without images."""
    counts = confusion_matrix(labels, predictions(probs), np.asarray(probs).shape[1])
    return _divide(np.diag(counts), counts.sum(axis=1))


def mean_recall(probs: Floats, labels: Ints) -> float:
    """Return the mean recall over the classes that have test images (balanced accuracy)."""
    return float(np.nanmean(per_class_recall(probs, labels)))


def macro_f1(probs: Floats, labels: Ints) -> float:
    """Return the mean F1 over the classes that have test images, the same classes as `mean_recall`.

    A prediction of a class without test images lowers it too, as a miss of the true class.
    """
    counts = confusion_matrix(labels, predictions(probs), np.asarray(probs).shape[1])
    truths, found = counts.sum(axis=1), counts.sum(axis=0)
    f1 = _divide(2 * np.diag(counts), truths + found)
    return float(np.mean(f1[truths > 0]))


def cross_entropy(probs: Floats, labels: Ints) -> float:
    """Return the mean of -log p(true class), natural logarithm, p floored at MIN_PROB."""
    of_truth = np.asarray(probs, dtype=np.float64)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(of_truth, MIN_PROB)).mean())


def expected_calibration_error(probs: Floats, labels: Ints, bins: int) -> float:
    """Return the ECE: mean |accuracy - confidence| over confidence bins, weighted by their share of images.

    Guo et al. 2017, eq. (3). Confidence is the largest probability; `bins` equal-width bins (lower, upper].
    """
    confidence = np.asarray(probs, dtype=np.float64).max(axis=1)
    correct = (predictions(probs) == labels).astype(np.float64)
    # Index of the bin (i/bins, (i+1)/bins]; inner edges only, so that rounding above 1 stays in the last bin.
    index = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    gaps = np.bincount(index, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a proportion; unlike p +- z*se it stays inside 0..1."""
    share, zz = successes / total, Z95 * Z95
    center = (share + zz / (2 * total)) / (1 + zz / total)
    half = Z95 / (1 + zz / total) * math.sqrt(share * (1 - share) / total + zz / (4 * total * total))
    return max(0.0, center - half), min(1.0, center + half)


def summarize(probs: Floats, labels: Ints, classes: Sequence[str], ece_bins: int = ECE_BINS) -> dict[str, Any]:
    """Return every metric of one model as JSON-safe numbers, rounded to six digits.

    Args:
        probs: (N, K) probabilities, not logits.
        labels: (N,) indices into `classes`.
        classes: K names in index order.
        ece_bins: bins of the calibration error.

    Raises:
        SsferError: no test image, or a probability that is not finite (the model diverged).
        ValueError: shapes, labels or row sums that are not as described.
    """
    probs, labels = np.asarray(probs, dtype=np.float64), np.asarray(labels)
    _check(probs, labels, len(classes))
    hits = int((predictions(probs) == labels).sum())
    recall = per_class_recall(probs, labels)
    return {
        "accuracy": _round(hits / len(labels)),
        "accuracy_ci95": [_round(v) for v in wilson_interval(hits, len(labels))],
        "mean_recall": _round(mean_recall(probs, labels)),
        "macro_f1": _round(macro_f1(probs, labels)),
        "ece": _round(expected_calibration_error(probs, labels, ece_bins)),
        "cross_entropy": _round(cross_entropy(probs, labels)),
        "recall": {name: None if math.isnan(r) else _round(r) for name, r in zip(classes, recall, strict=True)},
    }


def _check(probs: Floats, labels: Ints, num_classes: int) -> None:
    if probs.ndim != 2 or probs.shape[1] != num_classes or labels.shape != probs.shape[:1]:
        raise ValueError(f"expected probs (N, {num_classes}) and labels (N,), found {probs.shape} and {labels.shape}")
    if len(labels) == 0:
        raise SsferError("there is no test image to evaluate on; check the test part of the split")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels must be integers in 0..{num_classes - 1}")
    if not np.isfinite(probs).all():
        raise SsferError("the model's probabilities are not finite: training diverged; lower its learning rate")
    if probs.min() < 0 or not np.allclose(probs.sum(axis=1), 1, atol=1e-2):
        raise ValueError("rows of probs must be probabilities that sum to 1, found something else (logits?)")


def _divide(part: Ints, whole: Ints) -> npt.NDArray[np.float64]:
    result = np.full(len(whole), np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def _round(value: float) -> float:
    return round(float(value), DIGITS)
