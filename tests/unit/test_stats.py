"""Intervals, against scipy's where it has them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from trimtab.stats import (
    Estimate,
    hierarchical,
    mean,
    mean_of_shares,
    share,
    share_in_groups,
)


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


def test_over_two_seeds_by_hand() -> None:
    """Prompts alike, seeds 0 and 1: resamples are 0, ½ or 1, of variance ⅛; the jackknife's is ¼.

    So the ends are ½ as far as the percentiles are, times t's 12.706 at one degree of freedom over
    1.96, times √(¼ / ⅛). The resamples' variance is known to five per cent, which
    t feels: a tenth of the reach is allowed for.
    """
    apart = [[0.0] * 4, [1.0] * 4]
    found = hierarchical(apart)
    reach = 0.5 * 12.706 / 1.96 * math.sqrt(2)
    assert (found.value, found.n) == (0.5, 4)
    assert (found.value - found.low, found.high - found.value) == pytest.approx((reach, reach), 0.1)
    bounded = hierarchical(apart, shares=True)
    assert (bounded.low, bounded.high) == (0.0, 1.0)


def test_one_seed_is_the_interval_over_prompts() -> None:
    values = np.random.default_rng(5).normal(1.0, 2.0, 60)
    plain, one = mean(values.tolist()), hierarchical(values[None])
    width = plain.high - plain.low
    assert one.value == pytest.approx(plain.value, abs=1e-12) and one.n == 60
    assert (one.low, one.high) == pytest.approx((plain.low, plain.high), abs=0.08 * width)
    assert hierarchical([values, values]).low == pytest.approx(one.low, abs=0.08 * width)


def test_nineteen_in_twenty_intervals_over_seeds_and_prompts_hold_the_truth() -> None:
    """Of 120 at a coverage of .92 fewer than 100 would once in 1,800 times.

    Plain percentiles of three seeds, which cover at most .75 where seeds make the spread, would
    give 100 or more with odds of 1 in 50.
    """
    generator = np.random.default_rng(11)
    for seeds, prompts in ((1.0, 0.3), (0.1, 1.0)):  # standard deviations: who makes the spread
        held = 0
        for i in range(120):
            values = generator.normal(0, seeds, (3, 1)) + generator.normal(0, prompts, (1, 30))
            found = hierarchical(values + generator.normal(0, 0.3, (3, 30)), seed=i, resamples=200)
            held += found.low <= 0 <= found.high
        assert held >= 100, (seeds, prompts)


def test_missing_values_and_values_alike() -> None:
    found = hierarchical([[1.0, math.nan, 0.0], [1.0, math.nan, math.nan]])
    assert (found.value, found.n) == (pytest.approx(2 / 3), 2)
    assert math.isnan(hierarchical([[math.nan, math.nan]]).value)
    won = hierarchical(np.ones((2, 3, 10)), shares=True)
    assert won == share(10, 10) and won.low < 0.75  # ten of ten is no certainty
    assert hierarchical([[2.0, 2.0]]).high == 2.0
    assert hierarchical([[0.25]]).n == 1


def test_where_all_pairs_of_seeds_meet_each_side_is_drawn_for_itself() -> None:
    """Nine cells of three seeds by three say no more of the seeds than the three of a side do."""
    side = np.array([0.0, 1.0, 2.0])
    cells = np.broadcast_to(side[:, None, None], (3, 3, 20))
    alone, crossed = hierarchical(np.broadcast_to(side[:, None], (3, 20))), hierarchical(cells)
    assert crossed.high - crossed.low == pytest.approx(alone.high - alone.low, 0.1)
