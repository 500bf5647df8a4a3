"""Nats from the base: once for every token of who is steered, and none for the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from oracle import GREEDY, engine_of
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.rows import Watch
from trimtab.engines.types import Request


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every call that computes them."""
    divergence, rows = fusion.divergence, list[int]()

    def counting(logp_BV: Tensor, logp_base_BV: Tensor) -> Tensor:
        rows.append(len(logp_BV))
        return divergence(logp_BV, logp_base_BV)

    monkeypatch.setattr(fusion, "divergence", counting)
    return rows


def test_in_a_mixed_batch(counted: list[int]) -> None:
    """Of four requests of eight tokens two are steered: 16 places, also where they are reported."""
    engine = engine_of([1, 2])
    plain = Request("w1 w2", sampling=GREEDY)
    asked = [
        replace(plain, report=True),
        replace(plain, strength=0.0, report=True),
        replace(plain, prompt="w3"),
        replace(plain, prompt="w3", strength=0.0),
    ]
    told, base, silent, alone = engine.generate(asked, batch_size=4)
    assert sum(counted) == 16
    mean = sum(token.kl for token in told.tokens) / 8
    assert told.kl == pytest.approx(mean) and told.kl > 0 and silent.kl > 0
    assert base.kl == alone.kl == 0.0 and [token.kl for token in base.tokens] == [0.0] * 8


def test_what_a_search_watches_has_none(counted: list[int]) -> None:
    engine = engine_of([1, 2])
    plan = engine.plan(Request("w1 w2", sampling=GREEDY))
    [drawn] = engine.draw([replace(plan, watch=Watch(rewards=True))])
    assert len(drawn.ids) == 8 and not counted


def test_of_a_given_response_each_token_has_one(counted: list[int]) -> None:
    engine = engine_of([1, 2])
    prompts = [Request("w1"), Request("w1", strength=0.0)]
    steered, base = engine.log_likelihoods(prompts, [[3, 4, 5], [3, 4, 5]])
    assert sum(counted) == 3 and all(nats > 0 for nats in steered.kl)
    assert base.kl == (0.0, 0.0, 0.0)
