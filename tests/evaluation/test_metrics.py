"""ssfer.evaluation.metrics: values worked out by hand, scikit-learn and slow loops as oracles."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as oracle

from ssfer.core.errors import SsferError
from ssfer.evaluation import metrics

CLASSES = ("anger", "fear", "happiness")

# Six images of three classes. Predictions (row maxima): 0, 0, 1, 1, 1, 2; truths 0, 0, 0, 1, 2, 2: four of six right.
PROBS = np.array(
    [
        [0.90, 0.05, 0.05],
        [0.60, 0.30, 0.10],
        [0.20, 0.70, 0.10],
        [0.10, 0.80, 0.10],
        [0.05, 0.50, 0.45],
        [0.00, 0.05, 0.95],
    ]
)
LABELS = np.array([0, 0, 0, 1, 2, 2])


def random_case(seed: int, n: int = 400, k: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that favour the truth, so that no metric is trivial."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += 1.0
    probs = np.exp(logits)
    return probs / probs.sum(axis=1, keepdims=True), labels


def test_hand_values() -> None:
    assert metrics.accuracy(PROBS, LABELS) == pytest.approx(4 / 6)
    np.testing.assert_allclose(metrics.per_class_recall(PROBS, LABELS), [2 / 3, 1, 1 / 2])
    assert metrics.mean_recall(PROBS, LABELS) == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    # F1 = 2 TP / (truths + predictions): 4/5, 2/4, 2/3
    assert metrics.macro_f1(PROBS, LABELS) == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    expected = -sum(math.log(p) for p in (0.9, 0.6, 0.2, 0.8, 0.45, 0.95)) / 6
    assert metrics.cross_entropy(PROBS, LABELS) == pytest.approx(expected)


def test_confusion_matrix_has_true_classes_in_rows() -> None:
    counts = metrics.confusion_matrix(LABELS, metrics.predictions(PROBS), 3)
    assert counts.tolist() == [[2, 1, 0], [0, 1, 0], [0, 1, 1]]


def test_ece_hand_value_with_bin_edges() -> None:
    # Two bins (0, .5] and (.5, 1]: the 0.50 image lies in the lower one.
    # lower: confidence .50, wrong -> gap .50; upper: accuracy 4/5, confidence (.9+.6+.7+.8+.95)/5 = .79 -> gap .01
    expected = 1 / 6 * 0.50 + 5 / 6 * 0.01
    assert metrics.expected_calibration_error(PROBS, LABELS, 2) == pytest.approx(expected)


def test_ece_accepts_a_confidence_that_rounding_put_above_one() -> None:
    probs = np.array([[1.0 + 1e-7, 0.0], [1.0, 0.0]])
    assert metrics.expected_calibration_error(probs, np.array([0, 1]), 10) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_ece_equals_the_loop_over_bins(bins: int) -> None:
    probs, labels = random_case(1)
    total = 0.0
    for i in range(bins):
        inside = [n for n in range(len(labels)) if i / bins < probs[n].max() <= (i + 1) / bins]
        if inside:
            hits = sum(probs[n].argmax() == labels[n] for n in inside)
            total += abs(hits - sum(probs[n].max() for n in inside)) / len(labels)
    assert metrics.expected_calibration_error(probs, labels, bins) == pytest.approx(total)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_scikit_learn(seed: int) -> None:
    probs, labels = random_case(seed)
    predicted = probs.argmax(axis=1)
    assert metrics.accuracy(probs, labels) == pytest.approx(oracle.accuracy_score(labels, predicted))
    assert metrics.mean_recall(probs, labels) == pytest.approx(oracle.balanced_accuracy_score(labels, predicted))
    assert metrics.macro_f1(probs, labels) == pytest.approx(oracle.f1_score(labels, predicted, average="macro"))
    assert metrics.cross_entropy(probs, labels) == pytest.approx(oracle.log_loss(labels, probs))
    np.testing.assert_array_equal(
        metrics.confusion_matrix(labels, predicted, 7), oracle.confusion_matrix(labels, predicted)
    )


def test_absent_class_is_left_out_of_means_but_predicting_it_costs() -> None:
    probs = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    labels = np.array([0, 1, 0])  # nobody is happy, one anger image is taken for it
    np.testing.assert_array_equal(metrics.per_class_recall(probs, labels), [0.5, 1.0, np.nan])
    assert metrics.mean_recall(probs, labels) == pytest.approx(0.75)
    assert metrics.macro_f1(probs, labels) == pytest.approx((2 / 3 + 1) / 2)
    present = oracle.f1_score(labels, probs.argmax(axis=1), labels=[0, 1], average="macro")
    assert metrics.macro_f1(probs, labels) == pytest.approx(present)
    assert metrics.summarize(probs, labels, CLASSES, 10)["recall"]["happiness"] is None


def test_class_that_is_never_predicted_counts_as_zero() -> None:
    probs = np.array([[0.8, 0.2], [0.8, 0.2]])
    assert metrics.macro_f1(probs, np.array([0, 1])) == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (10, 10), (1, 1), (50, 100), (2494, 3068)])
def test_wilson_interval_agrees_with_scipy(hits: int, total: int) -> None:
    expected = stats.binomtest(hits, total).proportion_ci(confidence_level=0.95, method="wilson")
    assert metrics.wilson_interval(hits, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_certain_and_wrong_costs_a_finite_amount() -> None:
    assert metrics.cross_entropy(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-math.log(1e-12))


def test_summarize_is_json_safe_rounded_and_complete() -> None:
    summary = metrics.summarize(PROBS.astype(np.float32), LABELS, CLASSES, 2)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert set(summary) == {
        "accuracy", "accuracy_ci95", "mean_recall", "macro_f1", "ece", "cross_entropy", "recall",
    }  # fmt: skip
    assert summary["accuracy"] == 0.666667
    low, high = metrics.wilson_interval(4, 6)
    assert summary["accuracy_ci95"] == [round(low, 6), round(high, 6)]
    assert summary["recall"] == {"anger": 0.666667, "fear": 1.0, "happiness": 0.5}
    assert list(summary["recall"]) == list(CLASSES)


def test_no_images_and_diverged_models_are_told_to_the_user() -> None:
    with pytest.raises(SsferError, match="no test image"):
        metrics.summarize(np.zeros((0, 3)), np.zeros(0, int), CLASSES, 15)
    broken = PROBS.copy()
    broken[2, 1] = np.nan
    with pytest.raises(SsferError, match="diverged"):
        metrics.summarize(broken, LABELS, CLASSES, 15)


@pytest.mark.parametrize(
    ("probs", "labels", "match"),
    [
        (PROBS[:, :2], LABELS, "expected probs"),
        (PROBS, LABELS[:-1], "expected probs"),
        (PROBS, np.full(6, 3), "integers in 0..2"),
        (PROBS, np.full(6, -1), "integers in 0..2"),
        (PROBS, LABELS.astype(float), "integers in 0..2"),
        (np.log(PROBS + 1e-3), LABELS, "logits"),
    ],
)
def test_wrong_arguments_are_refused(probs: np.ndarray, labels: np.ndarray, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        metrics.summarize(probs, labels, CLASSES, 15)
