"""Intervals, against scipy's where it has them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from trimtab.stats import Estimate, mean, mean_of_shares, share, share_in_groups


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


def test_pairs_of_one_prompt_count_as_one_in_the_interval() -> None:
    """Nine of twelve pairs of four prompts: as wide as three of four."""
    found, four = share_in_groups(9, 12, 4), share(3, 4)
    assert (found.value, found.low, found.high, found.n) == (0.75, four.low, four.high, 12)
    assert share_in_groups(3, 4, 4) == four
    assert math.isnan(share_in_groups(0, 0, 0).value)


def test_the_mean_of_shares_by_hand() -> None:
    """(.5 + .9) / 2 = .7; below √(.3² + .4²) / 2 = .25, above √(.3² + .05²) / 2."""
    found = mean_of_shares([Estimate(0.5, 0.2, 0.8, 10), Estimate(0.9, 0.5, 0.95, 30)])
    assert (found.value, found.low) == pytest.approx((0.7, 0.45))
    assert (found.high, found.n) == (pytest.approx(0.7 + math.sqrt(0.0925) / 2), 40)
    alone, one = mean_of_shares([share(3, 10)]), share(3, 10)
    assert (alone.low, alone.high) == pytest.approx((one.low, one.high))


def test_the_mean_of_shares_holds_the_truth_as_often_as_it_says() -> None:
    """Three subsets of 20, 40 and 200 pairs with shares .9, .6, .5 (mean 2/3), 2000 times.

    95 % of intervals should hold it; the standard error of that share is half a per cent, so that
    93 % would be missed by four of them if it were true.
    """
    draw = np.random.default_rng(0)
    sizes, shares = np.array([20, 40, 200]), np.array([0.9, 0.6, 0.5])
    held = 0
    for right in draw.binomial(sizes, shares, (2000, 3)):
        found = mean_of_shares([share(r, n) for r, n in zip(right, sizes, strict=True)])
        held += found.low <= shares.mean() <= found.high
    assert 0.93 <= held / 2000 <= 0.98
