"""The length-controlled win rate: known truths, laws, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from trimtab.comparison.length import LengthControlled, length_controlled


def of(verdicts: object, differences: object, **options: int) -> LengthControlled:
    """Of one seed, a pair a prompt."""
    found = np.asarray(verdicts, dtype=float)
    cells = np.arange(len(found))
    lengths = np.asarray(differences, dtype=float)
    return length_controlled(found, lengths, cells, (1, len(found)), **options)


@pytest.mark.parametrize("merit", [0.0, 1.0])
def test_a_known_truth_is_found_behind_length(merit: float) -> None:
    """A is mostly longer and the judge likes length: raw rates of .89 and .94.

    At equal lengths A wins σ(merit), ½ or .73. With 3,000 pairs the rate's standard error is .03:
    .12 off would come once in 15,000 times.
    """
    generator = np.random.default_rng(4)
    differences = generator.normal(300, 200, 3000)
    x = np.tanh(differences / differences.std())
    verdicts = generator.random(3000) < 1 / (1 + np.exp(-(merit + 4 * x)))
    assert verdicts.mean() > 0.87
    found = of(verdicts, differences, resamples=100).rate
    truth = 1 / (1 + np.exp(-merit))
    assert found and found.value == pytest.approx(truth, abs=0.12) and found.n == 3000
    assert found.low < truth < found.high < 0.87


def test_where_length_says_nothing_it_is_the_win_rate() -> None:
    """At equal lengths, and where wins are as frequent among longer as among shorter answers."""
    even = of([1, 1, 1, 0, 0.5], [0, 0, 0, 0, 0]).rate
    assert even and even.value == pytest.approx(0.7, abs=1e-6)
    balanced = of([1, 1, 0, 0.5] * 2, [9, 9, 9, 9, -9, -9, -9, -9]).rate
    assert balanced and balanced.value == pytest.approx(0.625, abs=1e-6)


def test_where_length_parts_wins_from_losses_there_is_still_a_rate() -> None:
    """Symmetric pairs: the regularised regression goes through ½."""
    found = of([1, 1, 1, 0, 0, 0], [3, 2, 1, -1, -2, -3]).rate
    assert found and found.value == pytest.approx(0.5, abs=1e-6)
    assert 0 <= found.low < 0.3 and 0.7 < found.high <= 1


@pytest.mark.parametrize(
    ("verdicts", "differences", "why"),
    [
        ([1, 1, 1], [1, -1, 2], "A wins every pair"),
        ([0, 0], [1, -1], "B wins every pair"),
        ([1, 0, 0.5], [4, 1, 2], "A is longer in every pair"),
        ([1, 0], [-4, -1], "B is longer in every pair"),
        ([np.nan], [1], "there is no verdict"),
    ],
)
def test_where_there_is_none(verdicts: list[float], differences: list[float], why: str) -> None:
    assert of(verdicts, differences) == LengthControlled(None, why)


def test_a_prompt_counts_once_however_many_answers_it_has() -> None:
    """Two prompts of equal lengths, one lost and one won three times: ½, not ¾."""
    verdicts, cells = np.array([0.0, 1.0, 1.0, 1.0]), np.array([0, 1, 1, 1])
    found = length_controlled(verdicts, np.zeros(4), cells, (1, 2), resamples=100).rate
    assert found and found.value == pytest.approx(0.5, abs=1e-6) and found.n == 2


PAIRS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0, float("nan")]), st.integers(-50, 50)),
    min_size=1,
    max_size=12,
)


@examples(25)
@given(PAIRS)
def test_sides_changed_the_rate_is_what_is_left_of_one(pairs: list[tuple[float, int]]) -> None:
    verdicts, differences = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    mine = of(verdicts, differences, resamples=5).rate
    theirs = of(1 - verdicts, -differences, resamples=5).rate
    assert (mine is None) == (theirs is None)
    if mine and theirs:
        assert mine.value + theirs.value == pytest.approx(1, abs=1e-4)
        assert 0 <= mine.low <= mine.high <= 1
