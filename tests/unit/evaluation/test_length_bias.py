"""Rewards against lengths: correlations, and pairs matched in length."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from trimtab.evaluation.length_bias import correlation, length_bias, matched


def test_matched_pairs_by_hand() -> None:
    """A tenth of the longer one: 100 and 90 are matched, 100 and 89 are not, either way round."""
    lengths = np.array([[100, 90, 100, 89, 7, 1000], [90, 100, 89, 100, 7, 900]])
    assert matched(lengths, 0.1).tolist() == [True, True, False, False, True, True]
    assert matched(lengths, 0).tolist() == [False] * 4 + [True, False]
    assert matched(lengths, 1).all()


@examples(100)
@given(st.integers(1, 10**6), st.integers(0, 100))
def test_a_pair_at_the_very_bound_is_matched(tens: int, percent: int) -> None:
    longer = 100 * tens
    at_it = np.array([[longer, longer], [longer - percent * tens, longer - percent * tens - 1]])
    assert matched(at_it, percent / 100).tolist() == [True, False]


def test_correlations_are_scipys() -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 50, (2, 60))
    rewards = 0.1 * lengths + draw.normal(0, 2, (2, 60))
    found = length_bias(rewards, lengths, np.arange(60))
    pairs = rewards[0] - rewards[1], lengths[0] - lengths[1]
    for part, (x, y), n in (
        (found.answers, (rewards.ravel(), lengths.ravel()), 120),
        (found.differences, pairs, 60),
    ):
        assert part.pearson and part.spearman and (part.pearson.n, part.spearman.n) == (n, n)
        assert part.pearson.value == pytest.approx(pearsonr(x, y).statistic, abs=1e-12)
        assert part.spearman.value == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
        assert part.pearson.low < part.pearson.value < part.pearson.high


def test_the_interval_is_that_of_fisher_for_many_pairs_of_normal_numbers() -> None:
    """tanh(atanh r ± 1.96 / √(n − 3)); a thousand resamples leave some five per cent."""
    draw = np.random.default_rng(1)
    x = draw.normal(size=(1, 500))
    y = 0.5 * x + draw.normal(size=(1, 500))
    found = correlation(x, y, np.arange(500)).pearson
    assert found
    low, high = np.tanh(np.arctanh(found.value) + np.array([-1.96, 1.96]) / np.sqrt(497))
    reach = (high - low) / 2
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.25 * reach)


def test_pairs_of_one_prompt_are_drawn_together() -> None:
    """Each pair four times over, as one prompt's: the interval is that of the pairs once."""
    draw = np.random.default_rng(2)
    x = draw.normal(size=(1, 40))
    y = x + draw.normal(size=(1, 40))
    once = correlation(x, y, np.arange(40)).pearson
    shuffled = draw.permutation(160)
    four = [np.tile(values, 4)[:, shuffled] for values in (x, y)]
    repeated = correlation(four[0], four[1], np.tile(np.arange(40), 4)[shuffled]).pearson
    apart = correlation(four[0], four[1], np.arange(160)).pearson
    assert once and repeated and apart
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high), abs=1e-9)
    assert apart.high - apart.low < 0.6 * (once.high - once.low)


def test_where_there_is_no_correlation_none_is_given() -> None:
    x = np.arange(20.0)[None]
    assert correlation(x, np.full((1, 20), 0.1), np.arange(20)).pearson is None  # does not vary
    assert correlation(x, x, np.arange(20) % 9).spearman is None  # nine prompts
    one_differs = np.zeros((1, 20))
    one_differs[0, 3] = 1  # a resample without it does not vary
    assert correlation(x, one_differs, np.arange(20)).pearson is None
    assert correlation(x, x, np.arange(20)).pearson is not None
