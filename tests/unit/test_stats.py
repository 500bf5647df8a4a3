"""Intervals, against scipy's where it has them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from trimtab.stats import mean, share


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (3, 10), (50, 100), (1999, 2000)])
def test_wilson_is_scipys_over_whole_counts(right: int, n: int) -> None:
    found, theirs = share(right, n), binomtest(right, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_tie_lies_between() -> None:
    below, half, above = share(3, 10), share(3.5, 10), share(4, 10)
    assert below.low < half.low < above.low and below.high < half.high < above.high


def test_a_mean_by_hand() -> None:
    """Resamples of 0 and 1: the mean is 0, ½ or 1, each end with a probability of ¼."""
    found = mean([0.0, 1.0])
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.0, 1.0, 2)


def test_the_interval_is_that_of_the_normal_distribution_for_many() -> None:
    """Within a tenth of 1.96 standard errors; 2000 resamples leave some three per cent."""
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    found, reach = mean(values.tolist()), 1.96 * values.std() / 20
    assert (found.value - found.low, found.high - found.value) == pytest.approx((reach, reach), 0.1)
    assert mean(values.tolist()) == found != mean(values.tolist(), seed=1)


def test_few_and_equal_observations() -> None:
    assert math.isnan(mean([]).value) and math.isnan(mean([1.0, math.nan]).low)
    one = mean([3.0])
    assert (one.value, one.low, one.high, one.n) == (3.0, 3.0, 3.0, 1)
    same = mean([2.0] * 5)
    assert (same.low, same.high) == (2.0, 2.0)
