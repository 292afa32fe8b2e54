"""Two classifiers on the same images, against values worked out by hand and published ones."""

from __future__ import annotations

import pytest

from ssfer.evaluation.paired import Paired, paired


def test_only_images_on_which_the_two_differ_count() -> None:
    found = paired([True, True, False, False, True], [True, False, True, True, False])
    assert found == Paired(gained=2, lost=2, total=5)
    assert found.difference == 0


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (7, 1, 10 / 256),  # airway hyper-responsiveness, Fagerland et al. 2013: 2 C(8,0) + C(8,1) of 2^8
        (1, 5, 8 / 64),
        (3, 3, 1.0),
        (0, 0, 1.0),
        (0, 10, 1 / 1024),
    ],
)
def test_mid_p_of_mcnemars_test(gained: int, lost: int, p: float) -> None:
    assert Paired(gained, lost, 100).p_value == pytest.approx(p)
    assert Paired(lost, gained, 100).p_value == pytest.approx(p)


def test_thousands_of_images_are_no_trouble() -> None:
    assert 0 < Paired(2600, 2400, 10_000).p_value < 0.01


def test_interval_adds_half_an_image_to_each_count() -> None:
    """(c - b)/(n + 2) -+ 1.96 sqrt(b + c + 1 - (c - b)^2/(n + 2))/(n + 2), Agresti and Min 2005."""
    low, high = Paired(gained=30, lost=10, total=98).interval
    assert (low, high) == pytest.approx((0.2 - 1.959964 * 37**0.5 / 100, 0.2 + 1.959964 * 37**0.5 / 100), abs=1e-6)
    assert Paired(gained=3, lost=0, total=3).interval[1] == 1.0
