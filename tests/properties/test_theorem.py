"""GenARM's theorem (arXiv 2410.08193, Theorem 3.1) on a toy language: 3 tokens, 3 places.

For any reward r(x, y) of whole responses there is an ARM, π_r(y | x) ∝ exp r(x, y) written token by
token, with `Σ_t log π_r(y_t | x, y_<t) = r(x, y) − log Z_r(x)`. It ranks every pair as r does, and
`π_b(y) π_r(y)^{1/β} / Z` over whole responses is the optimum of `E[r] − β KL(π || π_b)`.

What is *not* true: fusing next-token distributions, as every decoder does, is not that optimum. It
normalises at each prefix, which leaves out how well the base itself would go on from there,
`E_b[exp(log π_r(y_>t) / β) | y_<=t]`. Over the last test's 200 toys (rewards and base logits of
deviation 1, β = 1) the total variation between the two is .12 in the mean and .28 at most; with
that factor, or a base that is uniform, the fusion is exact.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trimtab.training.losses import LossOptions, preference_loss

V, T = 3, 3
RESPONSES = list(itertools.product(range(V), repeat=T))
PREFIXES = [p for t in range(T) for p in itertools.product(range(V), repeat=t)]
SEEDS = st.integers(0, 2**32 - 1)


def autoregressive(logp_Y: Tensor) -> Tensor:
    """Next-token log-probs of a distribution over responses, one row a prefix, [P, V]."""
    rows = []
    for prefix in PREFIXES:
        masses = [_mass(logp_Y, (*prefix, v)) for v in range(V)]
        rows.append(torch.stack(masses).log_softmax(-1))
    return torch.stack(rows)


def _mass(logp_Y: Tensor, beginning: tuple[int, ...]) -> Tensor:
    inside = [i for i, y in enumerate(RESPONSES) if y[: len(beginning)] == beginning]
    return logp_Y[inside].logsumexp(-1)


def log_prob(logp_PV: Tensor) -> Tensor:
    """Of every response, the sum of its tokens' log-probs, [Y]."""
    at = {prefix: i for i, prefix in enumerate(PREFIXES)}
    return torch.stack([sum_of(logp_PV, at, y) for y in RESPONSES])


def sum_of(logp_PV: Tensor, at: dict[tuple[int, ...], int], y: tuple[int, ...]) -> Tensor:
    return torch.stack([logp_PV[at[y[:t]], y[t]] for t in range(T)]).sum()


def toy(seed: int) -> tuple[Tensor, Tensor]:
    """An arbitrary reward [Y] and a base's next-token log-probs [P, V]."""
    generator = torch.Generator().manual_seed(seed)
    reward_Y = torch.randn(V**T, generator=generator, dtype=torch.float64)
    base_PV = torch.randn(len(PREFIXES), V, generator=generator, dtype=torch.float64)
    return reward_Y, base_PV.log_softmax(-1)


@examples(20)
@given(SEEDS, st.floats(0.3, 3))
def test_an_arm_of_any_reward(seed: int, beta: float) -> None:
    """Differences of rewards are matched exactly, and with them the optimum π_b exp(r / β) / Z."""
    reward_Y, base_PV = toy(seed)
    arm_Y = log_prob(autoregressive(reward_Y))
    offset = arm_Y - reward_Y
    assert torch.allclose(offset, offset[:1].expand_as(offset), atol=1e-12)
    assert float(offset[0]) == pytest.approx(-float(reward_Y.logsumexp(-1)), abs=1e-12)
    base_Y = log_prob(base_PV)
    optimum_Y = (base_Y + reward_Y / beta).log_softmax(-1)
    fused_Y = (base_Y + arm_Y / beta).log_softmax(-1)
    assert torch.allclose(optimum_Y, fused_Y, atol=1e-12)


@pytest.mark.parametrize("seed", [1, 2])
def test_training_finds_it(seed: int) -> None:
    """The loss over all pairs, with Bradley-Terry's soft labels, has that ARM as its optimum."""
    reward_Y, _ = toy(seed)
    logits_PV = torch.zeros(len(PREFIXES), V, dtype=torch.float64, requires_grad=True)
    first, second = torch.triu_indices(len(RESPONSES), len(RESPONSES), 1)
    better = torch.sigmoid(reward_Y[first] - reward_Y[second])
    options = LossOptions(beta=1.0)
    optimizer = torch.optim.LBFGS([logits_PV], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        arm_Y = log_prob(logits_PV.log_softmax(-1))
        a, b = arm_Y[first], arm_Y[second]
        each = better * preference_loss(a, b, options)
        total = (each + (1 - better) * preference_loss(b, a, options)).mean()
        total.backward()
        return total

    optimizer.step(loss)
    found_PV = logits_PV.detach().log_softmax(-1)
    assert torch.allclose(found_PV, autoregressive(reward_Y), atol=1e-3)
    entropy = -(better * better.log() + (1 - better) * (1 - better).log()).mean()
    assert float(loss().detach()) == pytest.approx(float(entropy), abs=1e-6)


def fused_by_token(base_PV: Tensor, arm_PV: Tensor) -> Tensor:
    """What decoders sample from: every next-token distribution fused and normalised, [Y]."""
    return log_prob((base_PV + arm_PV).log_softmax(-1))


def test_fusing_tokens_is_not_the_optimum_and_why() -> None:
    gaps = []
    for seed in range(200):
        reward_Y, base_PV = toy(seed)
        arm_PV = autoregressive(reward_Y)
        optimum_Y = (log_prob(base_PV) + reward_Y).log_softmax(-1)
        fused_Y = fused_by_token(base_PV, arm_PV)
        gaps.append(0.5 * float((optimum_Y.exp() - fused_Y.exp()).abs().sum()))
        ahead_PV = future(base_PV, arm_PV)
        exact_Y = log_prob((base_PV + arm_PV + ahead_PV).log_softmax(-1))
        assert torch.allclose(exact_Y, optimum_Y, atol=1e-12)
    assert math.fsum(gaps) / len(gaps) == pytest.approx(0.121, abs=5e-4)
    assert max(gaps) == pytest.approx(0.279, abs=5e-4)
    uniform_PV = torch.full((len(PREFIXES), V), -math.log(V), dtype=torch.float64)
    reward_Y, _ = toy(0)
    exact_Y = fused_by_token(uniform_PV, autoregressive(reward_Y))
    assert torch.allclose(exact_Y, reward_Y.log_softmax(-1), atol=1e-12)  # a base without opinions


def future(base_PV: Tensor, arm_PV: Tensor) -> Tensor:
    """log E_b[π_r(the rest) | prefix and token]: what the fusion of tokens leaves out, [P, V]."""
    both_Y = log_prob(base_PV) + log_prob(arm_PV)
    so_far = {(): torch.zeros((), dtype=torch.float64)}
    at = {prefix: i for i, prefix in enumerate(PREFIXES)}
    rows = torch.zeros(len(PREFIXES), V, dtype=torch.float64)
    for prefix in PREFIXES:
        for v in range(V):
            step = base_PV[at[prefix], v] + arm_PV[at[prefix], v]
            so_far[(*prefix, v)] = so_far[prefix] + step
            rows[at[prefix], v] = _mass(both_Y, (*prefix, v)) - so_far[(*prefix, v)]
    return rows
