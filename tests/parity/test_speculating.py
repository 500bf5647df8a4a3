"""Speculating changes how fast tokens come and nothing else: every drafter, every kind of row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from conftest import make_model, make_tokenizer
from oracle import GREEDY, next_logp, specified, specified_logp, stream, templated, with_lora
from rounding import nats
from test_local_engine import make_lora, requests_for

import trimtab
from trimtab.engines.local.drafting import ModelDrafter, NgramDrafter
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.streams import Stream
from trimtab.engines.types import Completion, Request

SIZE = 12
Drafter = Literal["ngram", "text", "draft", "arm", "lora and arm"]
DRAFTERS: list[Drafter] = ["ngram", "text", "draft", "arm", "lora and arm"]


def small(name: str, seed: int) -> Stream:
    """A stream of one layer and half the width: cheap enough to draft."""
    model = make_model(seed, SIZE, hidden=8, layers=1)
    model.generation_config.eos_token_id = None
    return replace(stream(name, seed, SIZE), model=model)


def engine_with(drafter: Drafter) -> LocalEngine:
    base, arm = stream("base", 1, SIZE), stream("a", 2, SIZE)
    lora = templated(with_lora(base, "b", 3), "w5 w6 w7")
    if drafter == "ngram":
        return LocalEngine(base, [arm, lora], draft="ngram")
    if drafter == "draft":
        return LocalEngine(base, [arm, lora], draft=stream("draft", 4, SIZE))
    if drafter == "arm":
        return LocalEngine(base, [small("a", 2), lora, stream("c", 5, SIZE)])
    if drafter == "lora and arm":
        twins = small("c", 2)
        return LocalEngine(base, [lora, twins, with_lora(twins, "d", 6)])
    return LocalEngine(base, [lora])


@pytest.fixture(scope="module", params=DRAFTERS)
def engine(request: pytest.FixtureRequest) -> LocalEngine:
    drafter: Drafter = request.param
    found = engine_with(drafter)
    proposes = ModelDrafter if drafter in ("draft", "arm", "lora and arm") else NgramDrafter
    assert isinstance(found._speculation.drafter, proposes)
    return found


def mixed(engine: LocalEngine, temperature: float | None = None, count: int = 6) -> list[Request]:
    """Rows of unequal prompts, lengths, preferences, strengths, temperatures and filters."""
    filters: list[dict[str, Any]] = [{}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.2}]
    warmth = [0.0, 1.0, 0.0, 0.7] if temperature is None else [temperature]
    return [
        Request(
            " ".join(f"w{(i + 3 * j) % 5}" for j in range(1 + 5 * i % 8)),
            {name: 1.0 + (i + j) % 3 for j, name in enumerate(engine.objectives)},
            [1.0, 0.3, 2.0, 0.0][i // 2 % 4],
            GREEDY.but(
                max_new_tokens=16 - i,
                temperature=warmth[i % len(warmth)],
                seed=i,
                **filters[i // 3 % 4],
            ),
        )
        for i in range(count)
    ]


def tokens(answers: list[Completion]) -> list[list[int]]:
    return [list(answer.token_ids) for answer in answers]


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_greedy_rows_are_the_specification(engine: LocalEngine, mode: Any) -> None:
    """Alone, beside drawn rows, and with fewer slots than requests."""
    greedy, some = mixed(engine, 0.0), mixed(engine)
    expected = [specified(engine, r) for r in greedy]
    found = engine.generate(greedy, speculate=mode)
    assert tokens(found) == expected
    assert tokens(engine.generate(greedy, speculate=mode, batch_size=3)) == expected
    beside = engine.generate(some, speculate=mode)
    for i, request in enumerate(some):
        if request.sampling.temperature == 0:
            assert list(beside[i].token_ids) == expected[i]
    if mode == "on":
        assert sum(answer.accepted for answer in found) > 0
        assert sum(answer.drafted - answer.accepted for answer in found) > 0
        assert all(answer.accepted <= answer.drafted for answer in found)


def test_reports_are_the_specification(engine: LocalEngine) -> None:
    """One report per token, of what was kept and of what replaced it, drawn or not."""
    requests = mixed(engine)
    for request, answer in zip(
        requests, engine.generate(requests, report=True, speculate="on"), strict=True
    ):
        plan = engine.plan(replace(request, report=True))
        assert [t.token_id for t in answer.tokens] == list(answer.token_ids)
        for t, token in enumerate(answer.tokens):
            said = list(answer.token_ids[:t])
            expected = [
                float(next_logp(s, plan.prompts[s.name] + said)[token.token_id])
                for s in (engine.base, *engine.arms)
            ]
            found = [token.logp_base, *(token.rewards[name] for name in engine.objectives)]
            assert found == nats(expected)
            fused = float(specified_logp(engine, request, said)[token.token_id])
            assert token.logp_fused == nats(fused)


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_a_seed_is_its_tokens_in_any_company(engine: LocalEngine, mode: Any) -> None:
    """Drawn rows: alone, together, in another order and in fewer slots."""
    requests = mixed(engine, 1.0)
    together = tokens(engine.generate(requests, speculate=mode))
    assert tokens(engine.generate(requests[::-1], speculate=mode))[::-1] == together
    assert tokens(engine.generate(requests, speculate=mode, batch_size=3)) == together
    alone = [engine.generate([request], speculate=mode)[0] for request in requests]
    assert tokens(alone) == together


def test_no_more_tokens_than_asked_for(engine: LocalEngine) -> None:
    """Greedy rows of 1 to 6 tokens are the beginnings of one answer."""
    [whole] = engine.generate([mixed(engine, 0.0)[0]], speculate="on")
    for n in range(1, 7):
        request = mixed(engine, 0.0)[0]
        request = replace(request, sampling=request.sampling.but(max_new_tokens=n))
        [answer] = engine.generate([request], speculate="on")
        assert list(answer.token_ids) == list(whole.token_ids[:n])
        assert answer.finish_reason == "length"


@pytest.mark.parametrize("position", range(8))
def test_an_end_among_accepted_drafts(position: int) -> None:
    """A draft model that is the base: all that it says is kept, and the end comes anywhere.

    The token at each of eight positions is made the end of turn: the answer stops there.
    """
    base, draft = stream("base", 7, SIZE), stream("draft", 7, SIZE)
    request = Request("w1 w2 w3", sampling=GREEDY.but(max_new_tokens=16))
    ids = specified(LocalEngine(base), request)
    base.model.generation_config.eos_token_id = ids[position]
    engine = LocalEngine(base, draft=draft)
    ending = replace(request, sampling=request.sampling.but(ignore_eos=False))
    [answer] = engine.generate([ending], speculate="on", report=True)
    assert list(answer.token_ids) == ids[: ids.index(ids[position]) + 1]
    assert answer.finish_reason == "stop"
    assert len(answer.tokens) == len(answer.token_ids)


@pytest.fixture(scope="module", params=["model", "ngram", None])
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: Any, base_dir: Path, arm_dir: Path
) -> LocalEngine:
    lora = make_lora(tmp_path_factory.mktemp("lora"), base_dir, seed=3)
    draft = request.param
    if draft == "model":
        tokenizer = make_tokenizer()
        draft = tmp_path_factory.mktemp("draft")
        make_model(1, len(tokenizer), layers=1).save_pretrained(draft)
        tokenizer.save_pretrained(draft)
    arms = {"one": str(lora), "two": str(arm_dir)}
    return trimtab.load(str(base_dir), arms, draft=str(draft) if draft else None)


class TestFromDisk:
    """Text, LoRA folders and templates."""

    def test_greedy(self, loaded: LocalEngine) -> None:
        requests = requests_for(loaded, GREEDY.but(max_new_tokens=16))
        for request, answer in zip(
            requests, loaded.generate(requests, speculate="on"), strict=True
        ):
            assert list(answer.token_ids) == specified(loaded, request)

    def test_stop_texts(self, loaded: LocalEngine) -> None:
        """Any piece of a response ends it, wherever it falls in what was accepted at once."""
        options: dict[str, Any] = {"max_new_tokens": 24, "ignore_eos": True, "temperature": 0}
        [whole] = loaded.generate(["the cat"], **options)
        for start in range(0, len(whole.text) - 3, 3):
            stop = whole.text[start : start + 3]
            [plain] = loaded.generate(["the cat"], stop=(stop,), **options)
            [found] = loaded.generate(["the cat"], stop=(stop,), speculate="on", **options)
            assert (found.text, found.finish_reason) == (plain.text, "stop")
            assert list(found.token_ids) == list(plain.token_ids)

    def test_a_stream_is_the_batch(self, loaded: LocalEngine) -> None:
        options: dict[str, Any] = {"max_new_tokens": 20, "seed": 3, "speculate": "on"}
        [answer] = loaded.generate(["the cat"], report=True, **options)
        chunks = list(loaded.stream("the cat", report=True, **options))
        assert "".join(chunk.text for chunk in chunks) == answer.text
        last = chunks[-1].completion
        assert last is not None
        assert replace(last, tokens=()) == replace(answer, tokens=())
        for one, other in zip(last.tokens, answer.tokens, strict=True):
            assert one.token_id == other.token_id  # what was read before rounds otherwise
            assert one.logp_fused == nats(other.logp_fused)


@pytest.mark.parametrize("steered", [True, False])
@pytest.mark.parametrize("twin", ["base", "arm"])
def test_a_draft_model_that_is_in_use_already(twin: str, steered: bool) -> None:
    """The same model object as the base's or an ARM's."""
    base, arm = stream("base", 1, SIZE), stream("a", 2, SIZE)
    request = Request("w1 w2 w3", sampling=GREEDY.but(max_new_tokens=16))
    arms = [arm] if steered else []
    engine = LocalEngine(base, arms, draft=replace(base if twin == "base" else arm, name="draft"))
    [answer] = engine.generate([request], speculate="on")
    assert list(answer.token_ids) == specified(engine, request)


def test_the_models_are_left_alone() -> None:
    """Speculating first does not change what token by token gives afterwards."""
    engine = engine_with("arm")
    requests = mixed(engine, 1.0)
    before = tokens(engine.generate(requests))
    engine.generate(requests, speculate="on")
    assert tokens(engine.generate(requests)) == before
    assert torch.is_inference_mode_enabled() is False
