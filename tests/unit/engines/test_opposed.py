"""Guides with a reference, contrasts and instructions, on the local engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from oracle import GREEDY, is_specified, specified_logp, stream, templated, with_lora
from rounding import nats
from test_scheduler import Reads

from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.streams import Stream
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request
from trimtab.errors import ConfigError

SIZE = 12
ALL: tuple[Literal["off"], Literal["on"], Literal["auto"]] = ("off", "on", "auto")


def under(base: Stream, name: str, instruction: str, weight: float = 1.0) -> Stream:
    """The base under an instruction of its words."""
    return replace(base, name=name, instruction=instruction, scale=weight, reference=base)


def against(tuned: Stream, untuned: Stream, weight: float = 1.0) -> Stream:
    return replace(tuned, scale=weight, reference=untuned)


def drawn(seed: int = 0, tokens: int = 14, temperature: float = 1.0) -> Sampling:
    return GREEDY.but(max_new_tokens=tokens, temperature=temperature, seed=seed)


def tokens(engine: LocalEngine, requests: list[Request], **options: Any) -> list[list[int]]:
    return [list(answer.token_ids) for answer in engine.generate(requests, **options)]


PROMPTS = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9 w1 w2 w3 w4", "w7"]


def requests(*names: str, strength: float = 1.0, **options: Any) -> list[Request]:
    """Greedy and drawn, each with a preference of its own."""
    return [
        Request(
            prompt,
            {name: 1.0 + (i + j) % 3 for j, name in enumerate(names)},
            [1.0, 0.5, 2.0][i] * strength,
            drawn(i, temperature=temperature),
            **options,
        )
        for temperature in (0.0, 1.0)
        for i, prompt in enumerate(PROMPTS)
    ]


def mixed() -> LocalEngine:
    """An ARM; a LoRA on the base against another; a small model against a large one, steering
    away; two instructions."""
    base = stream("base", 1, SIZE)
    guides = [
        stream("arm", 2, SIZE),
        against(with_lora(base, "lora", 3), with_lora(base, "other", 4), 0.5),
        against(templated(stream("small", 5, SIZE), "w3 w4"), stream("large", 6, SIZE), -0.7),
        under(base, "plain", "w5 w6"),
        under(base, "rude", "w9", -0.5),
    ]
    return LocalEngine(base, guides)


NAMES = ("arm", "lora", "small", "plain", "rude")


@pytest.mark.parametrize("speculate", ALL)
def test_as_specified(speculate: Literal["off", "on", "auto"]) -> None:
    """All kinds at once, with preferences, budgets and gates of their own, in one batch."""
    engine = mixed()
    asked = [
        *requests(*NAMES),
        *requests(*NAMES, kl_budget=0.05),
        *requests(*NAMES, gate=0.3),
        *requests(*NAMES, strength=0.0),
    ]
    answers = engine.generate(asked, speculate=speculate, batch_size=len(asked))
    for request, answer in zip(asked, answers, strict=True):
        assert is_specified(engine, request, answer.token_ids)
    assert len({tuple(answer.token_ids) for answer in answers}) > len(asked) / 2


@pytest.mark.parametrize("draft", ["of its own", "the untuned model"])
def test_a_model_drafts_beside_a_contrast_on_it(draft: str) -> None:
    base, small = stream("base", 1, SIZE, layers=4), stream("draft", 5, SIZE)
    tuned = with_lora(small if draft == "the untuned model" else stream("s", 7, SIZE), "a", 3)
    engine = LocalEngine(base, [against(tuned, small), under(base, "b", "w5")], draft=small)
    asked = requests("a", "b")
    for request, answer in zip(asked, engine.generate(asked, speculate="on"), strict=True):
        assert is_specified(engine, request, answer.token_ids)
    assert sum(answer.drafted for answer in engine.generate(asked, speculate="on")) > 0


def test_small_arms_and_a_contrast_on_one_backbone_draft_together() -> None:
    base, small = stream("base", 1, SIZE, layers=6), stream("s", 5, SIZE)
    arm, tuned = with_lora(small, "arm", 3), with_lora(small, "a", 4)
    engine = LocalEngine(base, [arm, against(tuned, small)])
    asked = requests("arm", "a")
    answers = engine.generate(asked, speculate="on")
    assert sum(answer.drafted for answer in answers) > 0
    for request, answer in zip(asked, answers, strict=True):
        assert is_specified(engine, request, answer.token_ids)


OWN: tuple[dict[str, Any] | None, ...] = (
    None,
    {"plain": "w8"},
    {"plain": {"text": "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w1", "weight": -1.5}, "rude": "w2"},
    {"rude": {"weight": 2}},
)
"""Instructions that requests have for themselves: none, shorter, longer, their weights only."""


@pytest.mark.parametrize("speculate", ["off", "on"])
def test_each_request_under_instructions_of_its_own(
    speculate: Literal["off", "on"],
) -> None:
    """In one batch, with ARMs, contrasts, budgets, gates and strength 0."""
    engine = mixed()
    asked = [
        replace(request, instructions=own, **limits)
        for i, own in enumerate(OWN)
        for request, limits in zip(
            requests(*NAMES)[i % 3 :],
            ({}, {"kl_budget": 0.05}, {"gate": 0.3}, {"strength": 0.0}),
            strict=False,
        )
    ]
    answers = engine.generate(asked, speculate=speculate, batch_size=len(asked))
    for request, answer in zip(asked, answers, strict=True):
        assert is_specified(engine, request, answer.token_ids)
        assert tokens(engine, [request], speculate=speculate) == [list(answer.token_ids)]


def test_an_instruction_of_a_request_is_as_if_the_engine_had_it() -> None:
    """Text and weight, with the reports; two guides of one text are two streams."""
    base = stream("base", 1, SIZE)
    engine = LocalEngine(base, [under(base, "a", "w5 w6"), under(base, "b", "w5 w6", -0.5)])
    other = LocalEngine(base, [under(base, "a", "w9", -2.0), under(base, "b", "w5 w6", -0.5)])
    own = {"a": {"text": "w9", "weight": -2.0}}
    for request in requests("a", "b", report=True):
        [found] = engine.generate([replace(request, instructions=own)])
        [expected] = other.generate([request])
        assert found.token_ids == expected.token_ids
        for one, two in zip(found.tokens, expected.tokens, strict=True):
            assert one.logp_fused == nats(two.logp_fused)
            assert [*one.rewards.values()] == [nats(reward) for reward in two.rewards.values()]
        [of_the_call] = engine.generate(
            [request.prompt],
            instructions=own,
            preference=request.preference,
            strength=request.strength,
            report=True,
            **vars(request.sampling),
        )
        assert of_the_call.token_ids == found.token_ids
    assert engine.plan(replace(request, instructions={"b": "w1"})).weights == (
        engine.plan(request).weights  # a text alone keeps the guide's sign
    )


def test_instructions_that_an_engine_does_not_have_are_refused() -> None:
    engine = mixed()
    for given in ({"fancy": "w1"}, {"arm": "w1"}, {"lora": "w1"}):
        with pytest.raises(ConfigError, match=r"no instruction is called .*plain, rude"):
            engine.generate(["w1"], instructions=given)
    with pytest.raises(ConfigError, match="the instruction 'plain' has no text"):
        engine.generate(["w1"], instructions={"plain": ""})


def test_reports_tell_the_reward() -> None:
    """log π_i − log π_ref of each token, and its mean under the base."""
    engine = mixed()
    request = replace(requests(*NAMES)[1], report=True)
    [answer] = engine.generate([request])
    for t, token in enumerate(answer.tokens):
        said = list(answer.token_ids[:t])
        fused = specified_logp(engine, request, said)
        assert token.logp_fused == nats(float(fused[token.token_id]))
        for name in NAMES:
            alone = replace(request, preference={n: float(n == name) for n in NAMES})
            guide = next(arm for arm in engine.arms if arm.name == name)
            unsteered = specified_logp(engine, replace(request, strength=0.0), said)
            change = specified_logp(engine, replace(alone, strength=1.0), said) - unsteered
            other = next(a for a in token.alternatives if a.token_id != token.token_id)
            rewards = guide.scale * (token.rewards[name] - other.rewards[name])
            assert rewards == nats(float(change[token.token_id] - change[other.token_id]))
        assert set(token.mean_rewards) == {*NAMES}


class TestLaws:
    def test_an_instruction_at_weight_1_is_the_instructed_base(self) -> None:
        base = stream("base", 1, SIZE)
        steered = LocalEngine(base, [under(base, "plain", "w5 w6")])
        told = [
            Request(f"w5 w6 {prompt}", None, 0.0, drawn(i, temperature=t))
            for t in (0.0, 1.0)
            for i, prompt in enumerate(PROMPTS)
        ]
        asked = [replace(r, prompt=p, strength=1.0) for r, p in zip(told, PROMPTS * 2, strict=True)]
        assert tokens(steered, asked) == tokens(LocalEngine(base), told)

    def test_a_contrast_with_the_base_as_reference_is_the_tuned_model(self) -> None:
        """DPO : base at strength 1 on that base is DPO."""
        base = stream("base", 1, SIZE)
        tuned = with_lora(base, "dpo", 3)
        steered = LocalEngine(base, [against(tuned, base)])
        asked = requests("dpo")
        asked = [replace(request, strength=1.0) for request in asked]
        alone = LocalEngine(replace(tuned, name="base"))
        for request, found in zip(asked, tokens(steered, asked), strict=True):
            own = replace(request, preference=None, strength=0.0)
            assert is_specified(alone, own, found)

    def test_a_contrast_with_itself_is_the_base(self) -> None:
        base, arm = stream("base", 1, SIZE), stream("a", 2, SIZE)
        steered = LocalEngine(base, [against(arm, replace(arm, name="again"))])
        asked = requests("a", strength=5.0)
        base_alone = [replace(request, preference=None, strength=0.0) for request in asked]
        assert tokens(steered, asked) == tokens(LocalEngine(base), base_alone)

    def test_a_negative_weight_steers_away(self) -> None:
        """At −1 the change of the log-probs is that at 1, turned round."""
        base = stream("base", 1, SIZE)
        request = Request(PROMPTS[0], None, 1.0, drawn())
        plain = specified_logp(LocalEngine(base), replace(request, strength=0.0), [])
        changes = []
        for weight in (1.0, -1.0):
            engine = LocalEngine(base, [under(base, "plain", "w5", weight)])
            change = specified_logp(engine, request, []) - plain
            changes.append(change - change[0])
        torch.testing.assert_close(changes[0], -changes[1], atol=1e-4, rtol=1e-4)


class TestPrice:
    def test_an_instruction_is_one_more_row_of_the_base(self, monkeypatch: Any) -> None:
        """3 + 5 tokens of prompt and 2 rows a token; no further group, and none at strength 0."""
        base = stream("base", 1, SIZE)
        engine = LocalEngine(base, [under(base, "plain", "w5 w6")])
        assert len(engine.groups) == 1 and len(engine.groups[0].streams) == 2
        engine.scheduler()
        reads = Reads(monkeypatch)
        engine.generate([Request("w1 w2 w3", None, 1.0, drawn(tokens=4))])
        assert reads.of(engine) == 3 + 5 + 2 * 3
        engine.generate([Request("w1 w4 w3", None, 0.0, drawn(tokens=4))])
        assert reads.of(engine) == 14 + 3 + 3

    def test_a_reference_that_is_the_base_costs_nothing(self) -> None:
        base = stream("base", 1, SIZE)
        engine = LocalEngine(base, [against(with_lora(base, "dpo", 3), base)])
        assert len(engine.groups) == 1 and len(engine.groups[0].streams) == 2
