"""Policies in the base's place, and contrastive decoding, on the local engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from conftest import make_tokenizer, save_model
from oracle import is_specified, next_logp, specified_logp, stream, with_lora
from peft import LoraConfig, get_peft_model
from rounding import NATS
from test_opposed import ALL, SIZE, requests, tokens
from transformers import AutoModelForCausalLM

from trimtab.arms.adapter import AdapterWeights, LowRank, factor_soup, soup
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.loading import load_engine
from trimtab.engines.local.opposed import amateur_stream, policy_stream
from trimtab.engines.local.streams import Stream
from trimtab.engines.policies import Amateur
from trimtab.errors import ConfigError, ModelLoadError, PreferenceError


def policies(base: Stream, *parts: Stream) -> list[Stream]:
    return [policy_stream(part, base) for part in parts]


def several() -> list[Stream]:
    """A LoRA of the base, and a model of another backbone."""
    base = stream("base", 1, SIZE)
    return [base, *policies(base, with_lora(base, "a", 3), stream("b", 2, SIZE))]


@pytest.mark.parametrize("forward_kl", [False, True])
@pytest.mark.parametrize("speculate", ALL)
def test_as_specified(speculate: Literal["off", "on", "auto"], forward_kl: bool) -> None:
    """Shares of the base, preferences, budgets and gates of their own in one batch."""
    base, *parts = several()
    engine = LocalEngine(base, parts, forward_kl=forward_kl)
    asked = [
        *requests("a", "b", strength=0.5),
        *requests("a", "b", strength=0.4, kl_budget=0.05),
        *requests("a", "b", strength=0.5, gate=0.3),
        *requests("a", "b", strength=0.0),
    ]
    answers = engine.generate(asked, speculate=speculate, batch_size=len(asked))
    for request, answer in zip(asked, answers, strict=True):
        assert is_specified(engine, request, answer.token_ids)


@pytest.mark.parametrize("forward_kl", [False, True])
def test_laws(forward_kl: bool) -> None:
    """Strength 1 at one objective is that policy; strength 0 is the base; between them the weights
    of the log-probs: π ∝ π_b^(1 − s) · π_m^s."""
    base, *parts = several()
    engine = LocalEngine(base, parts, forward_kl=forward_kl)
    [request] = requests("a", "b")[:1]
    ids = [1, 2]

    def logp(strength: float, **preference: float) -> torch.Tensor:
        asked = replace(request, strength=strength, preference=preference)
        return specified_logp(engine, asked, ids)

    prompt = base.prompt_ids(request.prompt)
    own = {name: next_logp(s, [*prompt, *ids]) for name, s in zip("ab", parts, strict=True)}
    alone = next_logp(base, [*prompt, *ids])
    assert torch.equal(logp(0.0, a=0.3, b=0.7), alone)
    for name, other in ("ab", "ba"):
        assert torch.allclose(logp(1.0, **{name: 1.0, other: 0.0}), own[name], atol=NATS)
    mixed = logp(1.0, a=0.3, b=0.7)
    if forward_kl:
        expected = -(0.3 * (-own["a"]).exp() + 0.7 * (-own["b"]).exp()).log()
    else:
        expected = 0.3 * own["a"] + 0.7 * own["b"]
    assert torch.allclose(mixed, expected.log_softmax(-1), atol=NATS)
    half = (0.5 * alone + 0.5 * mixed).log_softmax(-1)
    assert torch.allclose(logp(0.5, a=0.3, b=0.7), half, atol=NATS)


def test_a_policy_alone_gives_its_own_tokens() -> None:
    base, part, _ = several()
    engine = LocalEngine(base, [part])
    [greedy] = requests("a")[:1]
    alone = LocalEngine(replace(part, name="base", reference=None, policy=False))
    request = replace(greedy, strength=1.0)
    plain = replace(request, preference=None)
    assert tokens(engine, [request]) == tokens(alone, [plain])


def test_more_than_the_policy_is_refused() -> None:
    base, *parts = several()
    with pytest.raises(PreferenceError, match=r"strength 1.5 with a policy; use 0 .* to 1"):
        LocalEngine(base, parts).generate(["w1"], strength=1.5)


class TestSoups:
    def loras(self, rank: int = 2) -> dict[str, AdapterWeights | None]:
        base = stream("base", 1, SIZE)
        return {n: with_lora(base, n, seed, rank).adapter for n, seed in (("a", 3), ("b", 4))}

    @pytest.mark.parametrize("preference", [(1.0, 0.0), (0.3, 0.7), (0.5, 0.5)])
    def test_by_updates_and_by_factors(self, preference: tuple[float, float]) -> None:
        """Σ p_i B_i A_i, and (Σ p_i B_i)(Σ p_j A_j), dense."""
        loras = self.loras()
        p, q = preference
        one, other = (loras[name] for name in "ab")
        assert one is not None
        assert other is not None
        for name, left in one.layers.items():
            right = other.layers[name]
            updates = p * left.b @ left.a + q * right.b @ right.a
            factors = (p * left.b + q * right.b) @ (p * left.a + q * right.a)
            for mixed, expected in ((soup(loras), updates), (factor_soup(loras), factors)):
                term = mixed.layers[name]
                assert term.gain is not None
                gain = torch.tensor(mixed.coefficients(preference)) @ term.gain
                assert torch.allclose(term.b @ (gain[:, None] * term.a), expected, atol=1e-5)

    @pytest.mark.parametrize("how", [soup, factor_soup])
    def test_on_the_engine(self, how: Any) -> None:
        """Each request with a preference of its own, as the dense model of that preference."""
        base = stream("base", 1, SIZE)
        mixed = replace(base, name="a+b", adapter=how(self.loras()))
        engine = LocalEngine(base, policies(base, mixed))
        asked = requests("a", "b", strength=0.5)
        for request, answer in zip(asked, engine.generate(asked, batch_size=6), strict=True):
            assert is_specified(engine, request, answer.token_ids)

    def test_between_the_objectives_they_are_two_methods(self) -> None:
        base = stream("base", 1, SIZE)
        outs = []
        for how in (soup, factor_soup):
            mixed = replace(base, name="a+b", adapter=how(self.loras()))
            engine = LocalEngine(base, policies(base, mixed))
            outs.append(tokens(engine, requests("a", "b", strength=0.5)))
        assert outs[0] != outs[1]

    def test_factors_that_do_not_fit(self) -> None:
        loras = self.loras()
        loras["b"] = self.loras(rank=3)["b"]
        with pytest.raises(ConfigError, match="they differ in layers, rank or biases"):
            factor_soup(loras)
        assert loras["a"] is not None
        fewer = dict([*loras["a"].layers.items()][1:])
        with pytest.raises(ConfigError, match="they differ in layers, rank or biases"):
            factor_soup({"a": loras["a"], "b": AdapterWeights(fewer)})
        name, term = next(iter(loras["a"].layers.items()))
        shifted = LowRank(term.a, term.b, torch.ones(1, len(term.a)), torch.ones(1, len(term.a)))
        with pytest.raises(ConfigError, match="they differ in layers, rank or biases"):
            factor_soup({"a": loras["a"], "b": AdapterWeights({**fewer, name: shifted})})


class TestContrastive:
    @pytest.mark.parametrize("amateur", [Amateur("m"), Amateur("m", 1.0, 0.5), Amateur("m", 0, 1)])
    def test_as_specified(self, amateur: Amateur) -> None:
        base = stream("base", 1, SIZE)
        engine = LocalEngine(base, [amateur_stream(stream("amateur", 5, SIZE), amateur)])
        asked = [*requests("amateur", strength=0.5), *requests("amateur", strength=0.0)]
        for request, answer in zip(asked, engine.generate(asked, batch_size=12), strict=True):
            assert is_specified(engine, request, answer.token_ids)

    def test_the_rule(self) -> None:
        """log π_b − c log π_a where π_b >= α max π_b, at strength 1."""
        base, weak = stream("base", 1, SIZE), stream("amateur", 5, SIZE)
        engine = LocalEngine(base, [amateur_stream(weak, Amateur("m", 0.7, 0.2))])
        [request] = requests("amateur")[:1]
        prompt = base.prompt_ids(request.prompt)
        expert, amateur = next_logp(base, prompt), next_logp(weak, prompt)
        expected = expert - 0.7 * amateur
        expected[expert.exp() < 0.2 * expert.exp().max()] = -torch.inf
        found = specified_logp(engine, replace(request, strength=1.0), [])
        assert torch.allclose(found, expected.log_softmax(-1), atol=NATS)
        assert 0 < int(found.isinf().sum()) < SIZE


@pytest.mark.parametrize("as_policy", [True, False])
def test_a_dpo_model_that_has_hardly_learned_loads_in_half_precision(
    as_policy: bool, tmp_path: Path
) -> None:
    """What cannot be seen in bfloat16 is compared in float32, as the policy that it is."""
    base = save_model(tmp_path / "base", 1)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"])
    )
    model.save_pretrained(tmp_path / "dpo")  # B is zero: nothing was learned
    make_tokenizer().save_pretrained(tmp_path / "dpo")
    (tmp_path / "dpo/trimtab.json").write_text('{"method": "dpo", "objective": "safe"}')
    place = str(tmp_path / "dpo")
    guide: dict[str, Any] = {"policy": {"safe": place}}
    if not as_policy:
        guide = {"contrast": {"safe": f"{place}:{base}"}}
    engine = load_engine(str(base), dtype="bfloat16", **guide)
    assert len(engine.generate(["the cat"], max_new_tokens=3, ignore_eos=True)[0].token_ids) == 3
    with pytest.raises(ModelLoadError, match="it is a policy, and no ARM"):
        load_engine(str(base), {"safe": place}, dtype="bfloat16")
