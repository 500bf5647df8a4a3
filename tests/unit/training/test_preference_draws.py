"""The preferences that a conditioned ARM is trained under: their law, and what they depend on."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trimtab.data.tokenize import TokenPair
from trimtab.training.conditioned import PreferenceDraws, asked_of

ROWS = list(range(100, 108))


def by_row(objectives: int = 3, alpha: float = 0.5, seed: int = 0) -> PreferenceDraws:
    return PreferenceDraws(objectives, alpha, True, seed)


def by_batch(objectives: int = 3, alpha: float = 0.5, seed: int = 0) -> PreferenceDraws:
    return PreferenceDraws(objectives, alpha, False, seed)


def many(objectives: int, alpha: float, per_row: bool) -> Tensor:
    """2000 draws: of one step's rows, or of as many steps."""
    if per_row:
        return by_row(objectives, alpha).draw(3, 0, range(2000))
    draws = by_batch(objectives, alpha)
    return torch.cat([draws.draw(step, 0, ROWS) for step in range(2000)])


@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize(("objectives", "alpha"), [(2, 0.5), (3, 0.5), (5, 0.2), (4, 5.0)])
def test_draws_are_dirichlet(objectives: int, alpha: float, per_row: bool) -> None:
    """Every entry has mean 1/K and variance (K − 1) / (K² (Ka + 1)).

    n = 2000 independent draws. The mean is off by more than 5 √(variance / n) less than once in a
    million seeds. So is the variance by more than 5 √(variance / n): with |d| ≤ 1 for the distance
    d from the mean, d² has a variance of at most E d⁴ ≤ E d².
    """
    draws = many(objectives, alpha, per_row).double()
    assert draws.shape == (2000, objectives)
    variance = (objectives - 1) / (objectives**2 * (objectives * alpha + 1))
    off = (draws.mean(0) - 1 / objectives).abs().max()
    assert float(off) < 5 * math.sqrt(variance / 2000)
    spread = ((draws - 1 / objectives) ** 2).mean(0) - variance
    assert float(spread.abs().max()) < 5 * math.sqrt(variance / 2000)


def test_small_alpha_draws_corners() -> None:
    """With a = 0.5 and K = 2 (the arcsine law) P(max > .9) = 1 − (2/π)(asin √.9 − asin √.1)

    = .40967; 2000 draws are within 5 standard deviations of .011. With a = 50 there is none.
    """
    expected = 1 - 2 / math.pi * (math.asin(math.sqrt(0.9)) - math.asin(math.sqrt(0.1)))
    share = (many(2, 0.5, True).amax(-1) > 0.9).float().mean()
    assert float(share) == pytest.approx(expected, abs=5 * 0.011)
    assert float(many(2, 50.0, True).max()) < 0.9


@examples(80)
@given(
    st.integers(2, 6),
    st.floats(0.01, 100),
    st.booleans(),
    st.integers(0, 2**32),
    st.integers(0, 10**6),
    st.integers(0, 64),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6),
)
def test_draws_are_on_the_simplex(
    objectives: int, alpha: float, per_row: bool, seed: int, step: int, micro: int, rows: list[int]
) -> None:
    draws = PreferenceDraws(objectives, alpha, per_row, seed).draw(step, micro, rows)
    assert draws.shape == (len(rows) if per_row else 1, objectives)
    assert draws.dtype == torch.float32
    assert bool((draws >= 0).all())
    torch.testing.assert_close(draws.sum(-1), torch.ones(len(draws)))


def test_a_rows_draw_is_its_own() -> None:
    """Not its neighbours', nor the order's, nor how many passes the step is made of."""
    together = by_row().draw(5, 0, ROWS)
    assert len(torch.unique(together, dim=0)) == len(ROWS)
    assert torch.equal(by_row().draw(5, 0, ROWS[::-1]), together.flip(0))
    halves = [by_row().draw(5, micro, ROWS[4 * micro : 4 * micro + 4]) for micro in (0, 1)]
    assert torch.equal(torch.cat(halves), together)


@pytest.mark.parametrize("draws", [by_row(), by_batch()])
def test_steps_differ(draws: PreferenceDraws) -> None:
    found = torch.stack([draws.draw(step, 0, ROWS[:1])[0] for step in range(20)])
    assert len(torch.unique(found, dim=0)) == 20


def test_passes_of_a_step_differ() -> None:
    found = torch.stack([by_batch().draw(7, micro, ROWS)[0] for micro in range(20)])
    assert len(torch.unique(found, dim=0)) == 20


def test_a_batchs_draw_is_not_about_its_rows() -> None:
    """Processes have different rows and condition on one preference."""
    assert torch.equal(by_batch().draw(7, 2, ROWS), by_batch().draw(7, 2, [1]))


@pytest.mark.parametrize("kind", [by_row, by_batch])
def test_the_seed_decides(kind: type[PreferenceDraws]) -> None:
    one, again, other = (kind(seed=seed).draw(2, 1, ROWS) for seed in (4, 4, 5))  # type: ignore[call-arg]
    assert torch.equal(one, again)
    assert not bool((one == other).all(-1).any())


def test_no_random_state_is_touched() -> None:
    """A resumed run finds dropout's random numbers where it left them."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    by_row().draw(1, 0, ROWS)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow  # the libraries are imported once more
def test_another_process_draws_the_same() -> None:
    code = (
        "from trimtab.training.conditioned import PreferenceDraws as P\n"
        "print(P(3, .5, True, 9).draw(4, 0, [1, 2]).tolist())\n"
        "print(P(3, .5, False, 9).draw(4, 1, [1, 2]).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    mine = [by_row(seed=9).draw(4, 0, [1, 2]), by_batch(seed=9).draw(4, 1, [1, 2])]
    assert done.stdout.splitlines() == [str(draws.tolist()) for draws in mine]


def test_evaluation_asks_each_verdict_by_itself() -> None:
    """A pair once for each objective that judged it, in the objectives' order."""
    pairs = [
        TokenPair([1], [2], [3], {"a": 0, "b": 1}),
        TokenPair([4], [5], [6], {"b": 0}),
        TokenPair([7], [8], [9], {"c": 0}),
    ]
    found = [(pair.prompt_ids[0], dict(pair.verdicts)) for pair in asked_of(pairs, ["b", "a"])]
    assert found == [(1, {"b": 1}), (4, {"b": 0}), (1, {"a": 0})]
    assert asked_of([TokenPair([1], [2], [3])], []) == []
