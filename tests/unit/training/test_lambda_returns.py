"""TD(λ) returns by hand, at their limits, and where they lead."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.training.losses import lambda_returns, value_loss

VALUES = st.lists(st.floats(-10, 10), min_size=1, max_size=12)
SCORES = st.floats(-10, 10)


def test_by_hand() -> None:
    """V = 1, 2, 4, 9; r = 3; λ = 1/2.

    G_4 = 3                      the whole response is worth its score
    G_3 = (3 + G_4) / 2 = 3      what follows is known to be worth 3
    G_2 = (V_3 + G_3) / 2 = 3.5
    G_1 = (V_2 + G_2) / 2 = 2.75
    """
    assert lambda_returns([1, 2, 4, 9], 3, 0.5) == [2.75, 3.5, 3, 3]


@given(VALUES, SCORES)
def test_lambda_1_is_the_score_everywhere(values: list[float], score: float) -> None:
    assert lambda_returns(values, score, 1.0) == [score] * len(values)


@given(VALUES, SCORES)
def test_lambda_0_is_the_next_value(values: list[float], score: float) -> None:
    known = [*values[:-1], score]
    assert lambda_returns(values, score, 0.0) == [*known[1:], score]


def test_the_loss_and_its_gradient() -> None:
    """Two responses, of 1 and 2 tokens; returns are no path for the gradient.

    V = 1 against 0: 1. V = 2, 5 against 3, 3: (1 + 4) / 2. d/dV: 2·1, then (2 − 3), (5 − 3).
    """
    value = torch.tensor([1.0, 2.0, 5.0], requires_grad=True)
    losses = value_loss(value, [1, 2], [0.0, 3.0], 0.5)
    assert losses.tolist() == [1.0, 2.5]
    losses.sum().backward()
    assert value.grad is not None and value.grad.tolist() == [2.0, -1.0, 2.0]


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95, 1.0])
def test_it_leads_to_the_expected_reward(decay: float) -> None:
    """A chain of 3 tokens over {0, 1}: a table of values goes to E[r | prefix], whatever λ is.

    All 8 responses are weighed by their probability under the base, so nothing is sampled.
    """
    generator = torch.Generator().manual_seed(0)
    responses = list(itertools.product((0, 1), repeat=3))
    probability = torch.randn(8, generator=generator, dtype=torch.float64).softmax(0)
    reward = torch.randn(8, generator=generator, dtype=torch.float64)
    prefixes = [y[:t] for t in (1, 2, 3) for y in responses]
    at = {prefix: i for i, prefix in enumerate(dict.fromkeys(prefixes))}
    table = torch.zeros(len(at), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([table], lr=0.5)
    for _ in range(3000):
        optimizer.zero_grad()
        rows = torch.stack([table[at[y[:t]]] for y in responses for t in (1, 2, 3)])
        losses = value_loss(rows, [3] * 8, reward.tolist(), decay)
        (probability * losses).sum().backward()
        optimizer.step()
    for prefix, i in at.items():
        inside = [k for k, y in enumerate(responses) if y[: len(prefix)] == prefix]
        mean = (probability * reward)[inside].sum() / probability[inside].sum()
        assert float(table[i].detach()) == pytest.approx(float(mean), abs=1e-3)
