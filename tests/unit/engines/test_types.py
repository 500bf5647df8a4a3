"""What may be asked for: every setting within bounds in which the arithmetic stays finite."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from trimtab import fusion
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request
from trimtab.errors import ConfigError
from trimtab.steering import STRONGEST

NAN, INFINITE = float("nan"), float("inf")
BAD: dict[str, list[Any]] = {
    "max_new_tokens": [0, -1, 2.5, 5.0, "5", True, None, 2**31, 10**20, NAN],
    "temperature": [-1, -1e-9, 1e-40, 5e-324, 1e-7, 1e7, 1e39, 10**400, INFINITE, NAN, "1", True],
    "top_k": [-1, 10**20, 2**31, 1.5, "5", False, None],
    "top_p": [0, -0.1, 1.0001, NAN, "0.5", True, None, 10**400],
    "min_p": [-1e-9, 1.01, NAN, "0", True],
    "seed": [2**63, -(2**63) - 1, 1.0, "7", True],
    "stop": [(1,), ("a", None)],
}
GOOD: dict[str, list[Any]] = {
    "max_new_tokens": [1, 2**31 - 1],
    "temperature": [0, 0.0, 1e-6, 1, Fraction(1, 2), 1e6],
    "top_k": [0, 2**31 - 1],
    "top_p": [5e-324, 0.5, 1],
    "min_p": [0, 5e-324, 1.0],
    "seed": [0, 2**63 - 1, -(2**63), None],
    "stop": ["a", ("a", "b"), ()],
}


def short(value: Any) -> str:
    return str(value)[:20]


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, own in BAD.items() for v in own], ids=short
)
def test_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is ") as caught:
        Sampling(**{name: value})
    assert "it must be" in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, own in GOOD.items() for v in own])
def test_taken(name: str, value: Any) -> None:
    Sampling(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [(n, v) for n in ("kl_budget", "gate") for v in (-1, NAN, INFINITE, "1", True, 10**400)]
    + [("gate", 0), ("gate", 1.1)],
    ids=short,
)
def test_refused_in_a_request(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is "):
        Request("hello", **{name: value})


@examples(300)
@given(
    st.integers(0, 2**31 - 1),
    st.sampled_from([0.0, 5e-324, 1e-40, 1.0, STRONGEST]),
    st.sampled_from(GOOD["temperature"]),
    st.sampled_from([0, 1, 3, 2**31 - 1]),
    st.sampled_from(GOOD["top_p"]),
    st.sampled_from(GOOD["min_p"]),
    st.sampled_from([0.0, 1e-45, 1e-3, 1e39, INFINITE]),
)
def test_the_ends_give_distributions(
    seed: int, w: float, temperature: float, top_k: int, top_p: float, min_p: float, budget: float
) -> None:
    """At the ends of all bounds, for ARMs of 0 to thousands of nats, and with tokens forbidden."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([0.0, 1.0, 30.0, 3000.0]).repeat(2)[:, None]
    logits = spread * torch.randn(3, 8, 11, generator=generator)
    logits[torch.rand(3, 8, 11, generator=generator) < 0.3] = -INFINITE
    logits[..., 0] = torch.where(logits.amax(-1) == -INFINITE, 0.0, logits[..., 0])
    base, *arms = logits.log_softmax(-1)
    weights = torch.full((8, 2), w)
    share = fusion.strength_within(base, torch.stack(arms), weights, torch.tensor([budget] * 8))
    assert bool(((share >= 0) & (share <= 1)).all())
    for kept in (1.0, share[:, None]):
        fused = fusion.fuse(base, torch.stack(arms), weights * kept)
        shaped = fusion.shape(
            fused,
            torch.tensor([temperature] * 8, dtype=torch.float32),
            torch.full((8,), top_k),
            torch.tensor([top_p] * 8, dtype=torch.float32),
            torch.tensor([min_p] * 8, dtype=torch.float32),
        )
        for found in (fused, shaped):
            torch.testing.assert_close(found.exp().sum(-1), torch.ones(8), atol=1e-5, rtol=0)
            assert bool((found[base == -INFINITE] == -INFINITE).all())
        token = fusion.choose(shaped, torch.ones(8), torch.rand(8, generator=generator))
        assert bool((shaped.gather(-1, token[:, None]) > -INFINITE).all())
