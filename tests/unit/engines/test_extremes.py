"""Requests at the ends of what is allowed, and models at the ends of what they can say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import make_model
from oracle import GREEDY, changed_logits, specified, stream
from torch import Tensor

from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request
from trimtab.errors import ConfigError, PreferenceError

SIZE = 12
ENDS: list[dict[str, Any]] = [
    {"strength": 1e6},
    {"strength": 1e6, "kl_budget": 0.05},
    {"strength": 1e-40},
    {"kl_budget": 1e300},
    {"kl_budget": 1e-300},
    {"gate": 5e-324},
    {"temperature": 1e-6},
    {"temperature": 1e6},
    {"top_k": 2**31 - 1},
    {"top_p": 5e-324},
    {"min_p": 1.0},
    {"seed": 2**63 - 1},
    {"seed": -(2**63)},
]


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return LocalEngine(stream("base", 1, SIZE), [stream("a", 2, SIZE)])


def at_the_end(settings: dict[str, Any]) -> Request:
    sampling = {k: v for k, v in settings.items() if k in Sampling.__dataclass_fields__}
    others = {k: v for k, v in settings.items() if k not in sampling}
    drawn = GREEDY.but(max_new_tokens=10, **{"temperature": 1.0, **sampling})
    return replace(Request("w1 w2 w3", sampling=drawn), **others)


@pytest.mark.parametrize("speculate", ["off", "on"])
def test_a_row_beside_extreme_ones_is_left_alone(engine: LocalEngine, speculate: Any) -> None:
    plain = Request("w4 w5", sampling=GREEDY.but(max_new_tokens=10))
    answers = engine.generate(
        [plain, *map(at_the_end, ENDS)], batch_size=20, report=True, speculate=speculate
    )
    assert list(answers[0].token_ids) == specified(engine, plain)
    for answer in answers[1:]:
        assert len(answer.token_ids) == 10
        numbers = [n for t in answer.tokens for n in (t.logp_base, t.logp_fused, t.kl)]
        assert bool(torch.tensor(numbers).isfinite().all())


@pytest.mark.parametrize(
    "settings",
    [s for s in ENDS if s.keys() & {"temperature", "top_p", "min_p", "seed"}] + [{"strength": 1e6}],
    ids=str,
)
def test_they_are_the_specification(engine: LocalEngine, settings: dict[str, Any]) -> None:
    request = at_the_end(settings)
    assert [list(a.token_ids) for a in engine.generate([request])] == [specified(engine, request)]


def test_a_budget_of_a_strong_guide_is_used(engine: LocalEngine) -> None:
    """At strength 1e6 as at 10, the KL of nearly every token is the budget."""
    for strength in (10.0, 1e6):
        [answer] = engine.generate(
            ["w1 w2 w3"], strength=strength, kl_budget=0.05, report=True,
            max_new_tokens=30, temperature=0, ignore_eos=True,
        )  # fmt: skip
        assert [t.kl for t in answer.tokens] == pytest.approx([0.05] * 30, rel=5e-3)


def test_beyond_them_nothing_is_decoded(engine: LocalEngine) -> None:
    with pytest.raises(PreferenceError, match=r"strength 1e\+39 is too large"):
        engine.generate(["w1", Request("w2", strength=1e39)])
    with pytest.raises(ConfigError, match="temperature is 1e-40"):
        engine.generate(["w1"], temperature=1e-40)
    with pytest.raises(ConfigError, match="top_k is 100000000000000000000"):
        engine.generate(["w1"], top_k=10**20)


def only(first: int, last: int) -> Callable[[Tensor], Tensor]:
    """Logits of the tokens from first to last; the others cannot occur."""

    def change(logits: Tensor) -> Tensor:
        at = torch.arange(logits.shape[-1])
        return logits.masked_fill((at < first) | (at >= last), float("-inf"))

    return change


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("draft", ["none", "ngram", "model", "arm"])
def test_base_and_arm_share_no_token(temperature: float, draft: str) -> None:
    """The base's tokens then, whatever is drafted; a budget changes nothing."""
    base, arm = stream("base", 1, SIZE), stream("a", 2, SIZE)
    drafter: Any = {"ngram": "ngram", "model": stream("draft", 3, SIZE)}.get(draft)
    if draft == "arm":  # of a third of the base's layers: it drafts by itself
        base = replace(base, model=make_model(1, SIZE, layers=6))
        base.model.generation_config.eos_token_id = None
    engine = LocalEngine(base, [arm], draft=drafter)
    speculate: Any = "off" if draft == "none" else "on"
    asked = [
        Request(f"w{i} w2", sampling=GREEDY.but(temperature=temperature, seed=i), kl_budget=budget)
        for i, budget in enumerate((None, 0.1, None))
    ]
    alone = LocalEngine(base, draft=drafter)
    with ExitStack() as changes:
        changes.enter_context(changed_logits(engine, "base", only(0, 6)))
        changes.enter_context(changed_logits(engine, "a", only(6, SIZE)))
        if draft == "model":
            changes.enter_context(changed_logits(engine, "draft", only(6, SIZE)))
        answers = engine.generate(asked, speculate=speculate, report=True)
    for answer in answers:
        assert all(token < 6 for token in answer.token_ids)
        assert max(token.kl for token in answer.tokens) < 1e-6
    if temperature == 0 or draft in ("none", "ngram"):
        with changed_logits(alone, "base", only(0, 6)):
            expected = alone.generate(asked, strength=0, speculate=speculate)
        assert [a.token_ids for a in answers] == [a.token_ids for a in expected]


class TestNotANumber:
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    @pytest.mark.parametrize("name", ["base", "a"])
    def test_is_refused_and_named(self, engine: LocalEngine, name: str, temperature: float) -> None:
        def change(logits: Tensor) -> Tensor:
            logits = logits.clone()
            logits[..., 3] = float("nan")
            return logits

        with (
            changed_logits(engine, name, change),
            pytest.raises(ConfigError, match=f"the logits of {name} are not numbers"),
        ):
            engine.generate(["w1 w2"], temperature=temperature)

    def test_of_an_arm_that_has_no_say(self, engine: LocalEngine) -> None:
        request = Request("w1 w2", strength=0, sampling=GREEDY)
        with changed_logits(engine, "a", lambda logits: logits * float("nan")):
            [answer] = engine.generate([request])
        assert list(answer.token_ids) == specified(engine, request)
