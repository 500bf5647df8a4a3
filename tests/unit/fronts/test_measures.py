"""The arithmetic of fronts against hand-derived numbers, an independent oracle and its laws."""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trimtab.errors import ConfigError
from trimtab.fronts.lattice import lattice, lattice_size
from trimtab.fronts.measures import (
    compare_fronts,
    hypervolume,
    hypervolumes,
    interval,
    mean_inner_product,
    means,
    non_dominated,
    over_seeds,
    resample,
    resampled_means,
)

# --- lattice ------------------------------------------------------------------------------------


def test_lattice_of_two() -> None:
    found = lattice(["a", "b"], 0.1)
    assert len(found) == 11
    assert found[0] == {"a": 1.0, "b": 0.0} and found[-1] == {"a": 0.0, "b": 1.0}
    assert [p["b"] for p in found] == [i / 10 for i in range(11)]  # exact: 0.3 and not 0.1 * 3
    assert list(found[4]) == ["a", "b"]


def test_lattice_of_three_by_hand() -> None:
    found = [tuple(p.values()) for p in lattice(["a", "b", "c"], 0.5)]
    halves = [(2, 0, 0), (1, 1, 0), (1, 0, 1), (0, 2, 0), (0, 1, 1), (0, 0, 2)]
    assert found == [(a / 2, b / 2, c / 2) for a, b, c in halves]


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 4, 5, 10])
def test_lattice_sizes(objectives: int, n: int) -> None:
    """Sharing n parts among K objectives: C(n + K − 1, K − 1) ways."""
    names = [str(i) for i in range(objectives)]
    found = lattice(names, 1 / n)
    assert len(found) == comb(n + objectives - 1, objectives - 1)
    assert len(found) == lattice_size(objectives, 1 / n)
    assert len({tuple(p.values()) for p in found}) == len(found)
    assert all(abs(sum(p.values()) - 1) < 1e-12 for p in found)


@pytest.mark.parametrize("step", [0.3, 0, -0.1, 1.5, 0.11, float("nan")])
def test_a_step_must_divide_one(step: float) -> None:
    with pytest.raises(ConfigError, match="does not divide 1"):
        lattice(["a", "b"], step)


# --- dominance ----------------------------------------------------------------------------------


def test_non_dominated_by_hand() -> None:
    """(2, 2) beats (1, 2), (2, 1) and (0, 0); (3, 0) and (0, 3) stand; the two (2, 2) both stay."""
    points = [(2, 2), (1, 2), (3, 0), (2, 1), (0, 3), (2, 2), (0, 0)]
    assert non_dominated(points).tolist() == [True, False, True, False, True, True, False]


# --- hypervolume --------------------------------------------------------------------------------


def test_hypervolume_of_two_by_hand() -> None:
    """Above (0, 0): a 3 x 1, a 2 x 2 and a 1 x 3 box in a staircase: 3 + 2 + 1 = 6.

    Above (0.5, 1): widths from 0.5, heights from 1: (2, 2) gives 1.5 · 1, (1, 3) adds 0.5 · 1.
    """
    points = [(1, 3), (3, 1), (2, 2)]
    assert hypervolume(points, (0, 0)) == 6
    assert hypervolume(points, (0.5, 1)) == 2


def test_hypervolume_of_three_by_hand() -> None:
    """Boxes 2·1·1, 1·2·1 and 1·1·2 share the unit cube: 3 · 2 − 3 · 1 + 1 = 4."""
    assert hypervolume([(2, 1, 1), (1, 2, 1), (1, 1, 2)], (0, 0, 0)) == 4


def test_hypervolume_of_one_and_of_none() -> None:
    assert hypervolume([(3.0,), (5.0,)], (1,)) == 4
    assert hypervolume(np.empty((0, 2)), (0, 0)) == 0


def test_a_point_not_above_the_reference_adds_nothing() -> None:
    assert hypervolume([(5, 0), (-1, 9), (0, 0)], (0, 0)) == 0
    assert hypervolume([(5, 0), (3, 2)], (0, 0)) == 6
    assert hypervolume([(5, 0, 9), (3, 2, 1)], (0, 0, 0)) == 6


def by_inclusion_exclusion(points: Any, reference: Any) -> float:
    """Volume of a union of boxes, the slow way: sums over all sets of boxes of what they share."""
    heights = np.maximum(np.asarray(points, dtype=float) - np.asarray(reference), 0)
    total = 0.0
    for size in range(1, len(heights) + 1):
        for chosen in combinations(range(len(heights)), size):
            total -= (-1) ** size * heights[list(chosen)].min(axis=0).prod()
    return total


WHOLE = st.integers(-2, 6).map(float)  # small whole numbers: ties and exact sums


@st.composite
def point_sets(draw: Any, most: int = 6) -> Any:
    k = draw(st.integers(1, 4))
    n = draw(st.integers(1, most))
    return draw(arrays(float, (n, k), elements=WHOLE)), draw(arrays(float, k, elements=WHOLE))


@given(point_sets())
@examples(300)
def test_hypervolume_is_the_volume_of_the_union(drawn: Any) -> None:
    points, reference = drawn
    assert hypervolume(points, reference) == by_inclusion_exclusion(points, reference)


@given(point_sets(), st.randoms(use_true_random=False))
def test_order_of_points_and_objectives_does_not_matter(drawn: Any, random: Any) -> None:
    points, reference = drawn
    rows, columns = list(range(len(points))), list(range(len(reference)))
    random.shuffle(rows)
    random.shuffle(columns)
    mixed = points[rows][:, columns]
    assert hypervolume(mixed, reference[columns]) == hypervolume(points, reference)


@given(point_sets(), st.data())
def test_more_points_never_cost_volume(drawn: Any, data: Any) -> None:
    points, reference = drawn
    more = data.draw(arrays(float, (1, points.shape[1]), elements=WHOLE))
    both = np.concatenate([points, more])
    assert hypervolume(both, reference) >= hypervolume(points, reference)
    worse = points[:1] - data.draw(arrays(float, points.shape[1], elements=st.integers(0, 3)))
    assert hypervolume(np.concatenate([points, worse]), reference) == hypervolume(points, reference)
    best = points[non_dominated(points)]
    assert hypervolume(best, reference) == hypervolume(points, reference)


@given(point_sets(), st.sampled_from([0.5, 2.0, 4.0]), st.integers(-5, 5))
def test_scaling_an_objective_scales_the_volume(drawn: Any, factor: float, shift: int) -> None:
    points, reference = drawn
    scale = np.ones(len(reference))
    scale[0] = factor
    found = hypervolume(points * scale + shift, reference * scale + shift)
    assert found == pytest.approx(factor * hypervolume(points, reference))


def test_many_sets_at_once_are_the_sets_one_by_one() -> None:
    rng = np.random.default_rng(0)
    for k in (1, 2, 3, 4):
        sets = rng.normal(size=(7, 9, k))
        alone = [hypervolume(points, -np.ones(k)) for points in sets]
        assert hypervolumes(sets, -np.ones(k)) == pytest.approx(np.array(alone))
    sets[2, 1, 0] = np.nan
    assert np.isnan(hypervolumes(sets, -np.ones(4))).tolist() == [i == 2 for i in range(7)]


# --- mean inner product -------------------------------------------------------------------------


def test_mean_inner_product_by_hand() -> None:
    """(1·4 + 0·1, 0.5·2 + 0.5·3, 0·0 + 1·5) = (4, 2.5, 5): the mean is 11.5 / 3."""
    points = [(4, 1), (2, 3), (0, 5)]
    preferences = [(1, 0), (0.5, 0.5), (0, 1)]
    assert mean_inner_product(points, preferences) == pytest.approx(11.5 / 3)
    one = mean_inner_product([(2, 4)], preferences)  # the base: one point for all preferences
    assert one == pytest.approx((2 + 3 + 4) / 3)


# --- bootstrap ----------------------------------------------------------------------------------


def test_resampled_means_leave_missing_scores_out() -> None:
    """Prompts score 1, missing, 5. Drawn (2, 1, 0): 1; (0, 1, 2): 5; (1, 0, 1): 3; (0, 3, 0): –."""
    scores = np.array([1.0, np.nan, 5.0]).reshape(1, 3, 1)
    counts = np.array([[2, 1, 0], [0, 1, 2], [1, 0, 1], [0, 3, 0]], dtype=float)
    found = resampled_means(scores, counts)[:, 0, 0]
    assert found[:3].tolist() == [1, 5, 3] and np.isnan(found[3])
    assert means(scores).tolist() == [[3.0]]
    estimate = interval(3.0, found, 3)
    assert (estimate.low, estimate.high, estimate.n) == (pytest.approx(1.1), pytest.approx(4.9), 3)


def test_mean_over_seeds_leaves_missing_scores_out() -> None:
    scores = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]]).reshape(2, 1, 3, 1)
    found = over_seeds(scores)[0, :, 0]
    assert found[:2].tolist() == [2, 5] and np.isnan(found[2])


def test_resample_draws_as_many_prompts_as_there_are() -> None:
    counts = resample(7, resamples=50, seed=3)
    assert counts.shape == (50, 7) and (counts.sum(axis=1) == 7).all()
    assert (resample(7, resamples=50, seed=3) == counts).all()


PREFERENCES = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])


def test_compare_fronts_by_hand() -> None:
    """Prompts that all score alike: intervals of no width, and the exact values.

    a: points (2, 0), (1, 1), (0, 2) above (0, 0): the unit square, so 1; MIP (2 + 1 + 2) / 3.
    b: points (2, 1), (2, 2), (1, 2): 4; MIP (2 + 2 + 2) / 3.
    """
    a = np.repeat(np.array([(2, 0), (1, 1), (0, 2)], dtype=float)[:, None], 4, axis=1)
    b = np.repeat(np.array([(2, 1), (2, 2), (1, 2)], dtype=float)[:, None], 4, axis=1)
    counts = resample(4, resamples=100, seed=0)
    found = compare_fronts({"a": a, "b": b}, PREFERENCES, (0, 0), counts, against="a")
    hv, mip = found["b"].hypervolume, found["b"].mip
    assert (hv.low, hv.value, hv.high, hv.n) == (4, 4, 4, 4)
    assert (mip.low, mip.value, mip.high) == pytest.approx((2, 2, 2))
    assert found["a"].hypervolume.value == 1
    assert found["a"].mip.value == pytest.approx(5 / 3)
    assert found["a"].hypervolume_difference is None and found["a"].mip_difference is None
    gaps = found["b"].hypervolume_difference, found["b"].mip_difference
    assert [gap.value for gap in gaps if gap] == pytest.approx([3, 1 / 3])
    assert [gap.low for gap in gaps if gap] == pytest.approx([3, 1 / 3])


def test_differences_are_paired() -> None:
    """Guide b is a plus 0.1 on every prompt: prompts differ a lot, the gap not at all."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 40, 2)) * 5
    counts = resample(40, resamples=200, seed=0)
    found = compare_fronts({"a": a, "b": a + 0.1}, PREFERENCES, (-9, -9), counts, against="a")
    assert found["b"].mip.high - found["b"].mip.low > 1
    gap = found["b"].mip_difference
    assert gap is not None
    assert (gap.low, gap.value, gap.high) == pytest.approx((0.1, 0.1, 0.1))


def test_intervals_cover_the_truth() -> None:
    """MIP, and the differences of MIP and of HV between two equal guides, in 300 made-up sweeps.

    The percentile interval of 60 prompts covers some 94 %: 282 of 300, standard deviation 4.1. Less
    than 261 (87 %) would be five of them off, odds of one in three million; with the nominal 95 %,
    more still. (HV itself is biased upwards by noise, and its interval with it; the difference is
    not.)
    """
    rng = np.random.default_rng(1)
    true = np.array([(1.0, 0.0), (0.8, 0.8), (0.0, 1.0)])
    truth = mean_inner_product(true, PREFERENCES)
    covered = np.zeros(3, dtype=int)
    for seed in range(300):
        prompts = rng.normal(size=(1, 60, 2))
        a, b = (true[:, None] + prompts + rng.normal(size=(3, 60, 2)) for _ in range(2))
        counts = resample(60, resamples=300, seed=seed)
        found = compare_fronts({"a": a, "b": b}, PREFERENCES, (-1, -1), counts, against="a")
        mip, gaps = found["a"].mip, found["b"]
        assert gaps.mip_difference and gaps.hypervolume_difference
        covered[0] += mip.low <= truth <= mip.high
        covered[1] += gaps.mip_difference.low <= 0 <= gaps.mip_difference.high
        covered[2] += gaps.hypervolume_difference.low <= 0 <= gaps.hypervolume_difference.high
    assert (covered >= 261).all(), covered
    assert (covered[:2] <= 298).all(), covered  # an interval that always covers is no 95 % one
