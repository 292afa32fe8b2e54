"""Two classifiers on the same images or over the same seeds, against values by hand and published ones."""

from __future__ import annotations

import pytest

from ssfer.evaluation.paired import Paired, PairedSeeds, paired, paired_seeds


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


def test_seeds_are_paired_and_seeds_of_one_side_only_are_left_out() -> None:
    found = paired_seeds({1: 80.0, 2: 82.0, 3: 81.0, 4: 10.0}, {3: 84.0, 1: 81.0, 2: 84.0, 5: 99.0})
    assert found is not None and found.differences == (1.0, 2.0, 3.0)
    # mean 2, standard error 1 / sqrt(3), t = 2 sqrt(3); with two degrees of freedom p = 1 - t / sqrt(t^2 + 2)
    assert found.mean == 2
    assert found.p_value == pytest.approx(1 - 12**0.5 / 14**0.5)
    low, high = found.interval
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-5)  # t table: 4.303


def test_the_sleep_data_of_student() -> None:
    """Student 1908, Biometrika 6: ten patients, hours of sleep gained by two drugs; t = 4.06, p = 0.0028."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired_seeds(dict(enumerate(first)), dict(enumerate(second)))
    assert found is not None and found.mean == pytest.approx(1.58)
    assert found.p_value == pytest.approx(0.002833, abs=1e-6)
    assert found.interval == pytest.approx((0.7001142, 2.4598858), abs=1e-6)


def test_one_shared_seed_and_equal_differences_give_no_test() -> None:
    assert paired_seeds({1: 1.0, 2: 3.0}, {1: 2.0}) is None
    assert PairedSeeds((1.0, 1.0)).p_value is None
