"""Temperature scaling: the fitted temperature is the one that the labels were drawn with; the classes stay."""

from __future__ import annotations

import numpy as np
import pytest

from ssfer.evaluation.calibration import BOUNDS, calibrated, fit_temperature
from ssfer.evaluation.metrics import expected_calibration_error


def drawn(temperature: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities of random logits, and labels drawn from those logits divided by the temperature."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (count, 4))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = np.exp(logits / temperature) / np.exp(logits / temperature).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < rng.uniform(size=(count, 1))).sum(axis=1)
    return probs, labels.clip(0, 3)


def test_hand_values_and_the_order_of_the_classes() -> None:
    np.testing.assert_allclose(calibrated(np.array([[0.8, 0.2]]), 2.0), [[2 / 3, 1 / 3]])  # sqrt(4) = 2
    probs = np.array([[1.0, 0.0, 0.0], [0.1, 0.3, 0.6]])
    np.testing.assert_allclose(calibrated(probs, 1.0), probs, atol=1e-12)
    assert (calibrated(probs, 3.0).argmax(axis=1) == [0, 2]).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_the_labels_is_found_and_mends_the_calibration(temperature: float) -> None:
    probs, labels = drawn(temperature)
    found = fit_temperature(probs, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    assert expected_calibration_error(calibrated(probs, found), labels, 15) < 0.02


def test_few_images_do_not_lead_to_extremes() -> None:
    certain = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert fit_temperature(certain, np.array([0, 1])) == pytest.approx(BOUNDS[0], rel=1e-3)
    assert fit_temperature(certain, np.array([1, 0])) == pytest.approx(BOUNDS[1], rel=1e-3)
    assert fit_temperature(certain[:0], np.zeros(0, int)) == 1.0
