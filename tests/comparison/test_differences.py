"""Paired differences over seeds, and the quantiles of Student's t against the printed tables."""

import math

import pytest

from ppvae.comparison import paired_difference
from ppvae.comparison.differences import mean_and_stderr, t_quantile


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [
        (1, 12.7062),
        (2, 4.3027),
        (3, 3.1824),
        (4, 2.7764),
        (5, 2.5706),
        (9, 2.2622),
        (30, 2.0423),
        (120, 1.9799),
    ],
)
def test_t_quantiles(freedom, quantile):
    assert t_quantile(0.975, freedom) == pytest.approx(quantile, abs=5e-5)


def test_one_degree_of_freedom_is_cauchy_and_two_have_a_closed_form():
    for p in (0.6, 0.9, 0.999):
        assert t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-12)
        assert t_quantile(p, 2) == pytest.approx((2 * p - 1) / math.sqrt(2 * p * (1 - p)), rel=1e-12)


def test_the_difference_of_three_pairs():
    """1, 1.5 and 1.5: mean 4/3, sd 1/sqrt(12), stderr 1/6, interval 4/3 -+ 4.3027/6."""
    found = paired_difference({0: 1.0, 1: 2.0, 2: 4.0}, {0: 0.0, 1: 0.5, 2: 2.5})
    assert found is not None
    assert found.n == 3
    assert found.mean == pytest.approx(4 / 3, rel=1e-12)
    assert found.stderr == pytest.approx(1 / 6, rel=1e-12)
    assert found.low == pytest.approx(4 / 3 - 4.302652729749 / 6, rel=1e-9)
    assert found.high == pytest.approx(4 / 3 + 4.302652729749 / 6, rel=1e-9)


def test_what_pairs_share_cancels():
    found = paired_difference({0: 101.0, 1: -49.0}, {0: 100.0, 1: -50.0})
    assert found is not None
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)


def test_the_other_sign_is_told_as_plainly():
    found = paired_difference({0: 0.0, 1: 0.5}, {0: 1.0, 1: 2.0})
    back = paired_difference({0: 1.0, 1: 2.0}, {0: 0.0, 1: 0.5})
    assert found is not None
    assert back is not None
    assert found.mean == -back.mean == -1.25
    assert found.low == -(back.high or 0.0)


def test_one_pair_has_no_interval():
    found = paired_difference({3: 1.5, 4: 9.0}, {3: 1.0})
    assert found is not None
    assert vars(found) == {"mean": 0.5, "low": None, "high": None, "stderr": None, "n": 1}


def test_only_seeds_that_both_have_and_numbers_only():
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    assert paired_difference({0: math.nan}, {0: 1.0}) is None
    found = paired_difference({0: math.nan, 1: 2.0, 2: 3.0}, {0: 1.0, 1: 1.0, 2: 1.0, 5: 0.0})
    assert found is not None
    assert (found.mean, found.n) == (1.5, 2)


def test_mean_and_standard_error():
    assert mean_and_stderr({}) == (None, None, 0)
    assert mean_and_stderr({0: 2.0}) == (2.0, None, 1)
    assert mean_and_stderr({0: 1.0, 7: 3.0}) == (2.0, pytest.approx(1.0), 2)
