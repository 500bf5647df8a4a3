"""Log-likelihoods of given responses: as specified, as generated, in any company."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from oracle import GREEDY, engine_of, likelihood_is_specified
from rounding import nats
from test_opposed import NAMES, mixed
from test_opposed import requests as guided
from test_speculation import draft_engine

from trimtab.engines.local import batch, likelihoods
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.types import Request
from trimtab.errors import ConfigError, PreferenceError

WORDS = [5, 3, 11, 2, 7, 7, 1, 4, 9, 6, 3, 8, 10, 0, 5, 2, 6, 1, 9, 4]


def responses(requests: Sequence[Request]) -> list[list[int]]:
    """Of one to twenty words, all different."""
    lengths = [1, 20, 7, 2, 13]
    return [[(w + i) % 12 for w in WORDS[: lengths[i % 5]]] for i in range(len(requests))]


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return mixed()


@pytest.mark.parametrize("size", [1, 3])
def test_as_specified(engine: LocalEngine, size: int, monkeypatch: Any) -> None:
    """ARMs, contrasts and instructions, each response with its own preference and strength, in
    steps of many tokens and of few."""
    if size == 1:
        monkeypatch.setattr(batch, "CHUNK", 24)
        monkeypatch.setattr(batch, "LOGITS", 12 * 8 * 2)
    asked = guided(*NAMES)
    asked[0] = replace(asked[0], strength=0.0)
    asked[1] = replace(asked[1], instructions={"plain": "w1 w8"})
    given = responses(asked)
    found = engine.log_likelihoods(asked, given, batch_size=size * 2)
    assert [list(one.token_ids) for one in found] == given
    for request, one in zip(asked, found, strict=True):
        likelihood_is_specified(engine, request, one)
    assert found[0].logp_fused == found[0].logp_base
    assert found[0].kl == (0.0,) and not any(one.is_greedy for one in found[1:2])


def test_as_generated(engine: LocalEngine) -> None:
    """The numbers of an engine's own answers, with budgets and gates, are those of its reports."""
    asked = [
        *guided(*NAMES, kl_budget=0.3),
        *guided(*NAMES, gate=0.5),
        *guided(*NAMES, strength=1.3),
    ]
    answers = engine.generate(asked, report=True, batch_size=8)
    found = engine.log_likelihoods(asked, [answer.token_ids for answer in answers], batch_size=8)
    assert any(answer.gated for answer in answers)
    for request, answer, one in zip(asked, answers, found, strict=True):
        assert list(one.logp_fused) == nats([token.logp_fused for token in answer.tokens])
        assert list(one.logp_base) == nats([token.logp_base for token in answer.tokens])
        assert list(one.kl) == nats([token.kl for token in answer.tokens])
        assert one.is_greedy or request.sampling.temperature > 0


def test_beside_others(engine: LocalEngine) -> None:
    """Asked from threads, while the same engine answers and drafts: nobody's numbers change."""
    asked = guided(*NAMES)
    given = responses(asked)
    expected = engine.log_likelihoods(asked, given)
    alone = engine.generate(asked, batch_size=6)
    found: dict[int, Any] = {}

    def ask(i: int) -> None:
        if i % 2:
            found[i] = engine.log_likelihoods(asked, given, batch_size=1 + i)
        else:
            found[i] = engine.generate(asked, batch_size=6, speculate="on" if i else "off")

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in (1, 3):
        for one, other in zip(found[i], expected, strict=True):
            assert list(one.logp_fused) == nats(list(other.logp_fused))
            assert list(one.logp_base) == nats(list(other.logp_base))
    for i in (0, 2):
        assert [a.token_ids for a in found[i]] == [a.token_ids for a in alone]


def test_beside_a_guide_that_drafts(monkeypatch: Any) -> None:
    """Its log-probs of a row's first token are at hand then, those of the others are not."""
    monkeypatch.setattr(batch, "CHUNK", 18)  # so that the response is not read at once
    engine, engine._speculation.drafter = draft_engine("arm")
    asked = Request("w1 w2 w3", {"a": 0.4, "b": 0.6}, 1.3)
    given = [4, 1, 0, 3, 3, 2] * 5
    told: Any = {"preference": {"a": 0.0, "b": 1.0}, "strength": 30.0}  # its drafts are kept
    drawn = Request("w1 w2 w3", sampling=GREEDY.but(max_new_tokens=60), speculate="on", **told)
    scheduler = engine.scheduler()
    scheduler.add(0, engine.plan(drawn))
    while scheduler.running == [] or scheduler.running[0].prefilling:
        scheduler.step()
    plan = engine._planner.plan_given(asked, given, end=False, rewards=False)
    row = scheduler.add(1, plan)
    seen: list[Any] = []
    drafted = 0
    while row.finish_reason is None:
        for one in scheduler.step():
            drafted = max(drafted, one.row.drafted if one.row is not row else 0)
            seen += one.seen.likelihoods_N4 if one.seen else []
    assert drafted > 0 and len(seen) == len(given)
    [expected] = engine.log_likelihoods([asked], [given])
    assert [n[0] for n in seen] == nats(list(expected.logp_fused))
    assert [n[1] for n in seen] == nats(list(expected.logp_base))


def test_out_of_memory_it_goes_on() -> None:
    """Responses that do not fit together run one after the other."""
    plenty, little = engine_of([1, 2]), engine_of([1, 2])
    little = LocalEngine(little.base, little.arms, cache_memory=70_000)
    prompts = [f"w{i} w2 w3" for i in range(6)]
    given = [WORDS * 3 for _ in prompts]
    one, two = (e.log_likelihoods(prompts, given, strength=1.5) for e in (plenty, little))
    for a, b in zip(one, two, strict=True):
        assert list(a.logp_fused) == nats(list(b.logp_fused))


def test_of_nothing(engine: LocalEngine) -> None:
    found = engine.log_likelihoods(["w1", "w2"], ["", "w3"])
    assert found[0].total == 0 and math.isnan(found[0].nll) and math.isnan(found[0].base_nll)
    assert len(found[1].token_ids) == 1
    assert engine.log_likelihoods([], []) == []


def test_what_cannot_be_asked(engine: LocalEngine) -> None:
    for prompts, given, why in (
        (["w1"], "w2", "responses is one text"),
        (["w1", "w2"], ["w3"], "2 prompts and 1 responses"),
        (["w1"], [[3, 12]], "12 is no token id"),
        ([[3, -1]], ["w1"], "-1 is no token id"),
        ([""], ["w1"], "the prompt is empty"),
    ):
        with pytest.raises(ConfigError, match=why):
            engine.log_likelihoods(prompts, given)
    with pytest.raises(PreferenceError):
        engine.log_likelihoods(["w1"], ["w2"], preference={"nobody": 1.0})
    with pytest.raises(ConfigError, match="a response of token ids is as it stands"):
        engine.log_likelihoods(["w1"], [[3]], end_of_turn=True)
    with pytest.raises(ConfigError, match="not known of a prompt of token ids"):
        engine.log_likelihoods([[3]], ["w1"], end_of_turn=True)


def test_pieces_within_bounds() -> None:
    """A row's share of the tokens, within what it may read ahead; nothing for one that draws."""

    class Asked:
        def __init__(self, given: list[int], done: int) -> None:
            self.plan, self.ids = type("Plan", (), {"given": given})(), WORDS[:done]
            self.streams = [[1, 2], [3]]

    rows: Any = [Asked(WORDS, 5), Asked([], 3), Asked([1, 2], 0)]
    assert likelihoods.pieces(rows, [None] * 3, 60, 100) == [WORDS[5:15], [], [1, 2]]
    assert likelihoods.pieces(rows, [2, None, 0], 60, 100) == [WORDS[5:8], [], [1]]
    assert likelihoods.pieces(rows, [None] * 3, 60, 4) == [WORDS[5:9], [], [1, 2]]
    assert likelihoods.pieces(rows, [None] * 3, 0, 100) == [WORDS[5:6], [], [1]]
