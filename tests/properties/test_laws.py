"""The laws of the rule (the design's section on it), on the formula and on every engine."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from oracle import alone, changed_logits, engine_of, specified, specified_logp, stream, with_head
from rounding import close, nats
from torch import Tensor

from trimtab import fusion
from trimtab.engines import reference
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Completion, Request
from trimtab.steering import Steering

NEVER = float("-inf")
many = examples(60)
few = examples(8)

seeds = st.integers(0, 2**31 - 1)
weights = st.floats(0.0625, 8.0, width=32)
constants = st.floats(-50.0, 50.0, width=32)


@st.composite
def rows(draw: Any, fewest: int = 1, most: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs of a base [B, V] with some impossible tokens, of ARMs [K, B, V]; weights [B, K]."""
    k, b, v = draw(st.integers(fewest, most)), draw(st.integers(1, 3)), draw(st.integers(2, 9))
    generator = torch.Generator().manual_seed(draw(seeds))
    spread = draw(st.sampled_from([0.1, 1.0, 10.0]))
    logits = spread * torch.randn(1 + k, b, v, generator=generator)
    impossible = torch.rand(b, v, generator=generator) < 0.3
    impossible[:, 0] = False
    logits[0][impossible] = NEVER
    logp = logits.log_softmax(-1)
    w = torch.tensor([[draw(weights) for _ in range(k)] for _ in range(b)])
    return logp[0], logp[1:], w


def finite(logp: Tensor) -> Tensor:
    """−inf, which two rows must share, as 0."""
    return logp.masked_fill(logp == NEVER, 0.0)


class TestFormula:
    @many
    @given(rows())
    def test_strength_zero_is_the_base_bit_for_bit(self, given: Any) -> None:
        base, arms, w = given
        assert torch.equal(fusion.fuse(base, arms, 0 * w), base)
        mixed = w.clone()
        mixed[0] = 0  # one unsteered row among steered ones
        assert torch.equal(fusion.fuse(base, arms, mixed)[0], base[0])

    @many
    @given(rows(fewest=2), st.data())
    def test_a_one_hot_preference_is_the_single_arm(self, given: Any, data: st.DataObject) -> None:
        base, arms, w = given
        only = data.draw(st.integers(0, len(arms) - 1))
        one_hot = torch.zeros_like(w)
        one_hot[:, only] = w[:, only]
        single = fusion.fuse(base, arms[only : only + 1], w[:, only : only + 1])
        assert torch.equal(fusion.fuse(base, arms, one_hot), single)

    @many
    @given(rows(), constants, constants)
    def test_a_constant_added_to_a_stream_changes_nothing(
        self, given: Any, to_base: float, to_arms: float
    ) -> None:
        base, arms, w = given
        shifted = fusion.fuse(
            fusion.log_softmax(base + to_base), fusion.log_softmax(arms + to_arms), w
        )
        largest = 50 + float(arms.abs().max())  # which float32 adds, and a weight multiplies
        found, expected = finite(shifted), finite(fusion.fuse(base, arms, w))
        close(found, expected, terms=4, size=1 + largest * float(w.sum(-1).max()), factor=4)

    @many
    @given(rows(fewest=2), st.randoms(use_true_random=False))
    def test_the_order_of_objectives_changes_nothing(self, given: Any, random: Any) -> None:
        base, arms, w = (tensor.double() for tensor in given)
        order = random.sample(range(len(arms)), len(arms))
        permuted = fusion.fuse(base, arms[order], w[:, order])
        torch.testing.assert_close(permuted, fusion.fuse(base, arms, w))

    @many
    @given(rows())
    def test_what_the_base_forbids_stays_forbidden(self, given: Any) -> None:
        base, arms, w = given
        fused = fusion.fuse(base, arms, w)
        assert torch.equal(fused == NEVER, base == NEVER)
        assert fused.exp().sum(-1).tolist() == pytest.approx([1.0] * len(base), abs=1e-5)

    @many
    @given(rows())
    def test_a_batch_is_its_rows(self, given: Any) -> None:
        base, arms, w = (tensor.double() for tensor in given)
        fused = fusion.fuse(base, arms, w)
        for i in range(len(base)):
            one = fusion.fuse(base[i : i + 1], arms[:, i : i + 1], w[i : i + 1])
            torch.testing.assert_close(fused[i : i + 1], one)

    @many
    @given(rows(most=1), constants)
    def test_dpo_is_recovered_at_strength_one(self, given: Any, constant: float) -> None:
        """log π_ref + (log π_dpo − log π_ref + c − log Z') = log π_dpo up to normalisation."""
        reference_logp, dpo, _ = given
        dpo = dpo[0].masked_fill(reference_logp == NEVER, NEVER).log_softmax(-1)
        ratio = torch.where(reference_logp == NEVER, 0.0, dpo - reference_logp) + constant
        arm = fusion.log_softmax(ratio)
        fused = fusion.fuse(reference_logp, arm[None], torch.ones(len(dpo), 1))
        size = 50 + float(finite(ratio).abs().max() + finite(dpo).abs().max())
        close(finite(fused), finite(dpo), terms=4, size=size, factor=4)

    @many
    @given(rows(), st.floats(0.1, 4.0), st.integers(0, 9), st.floats(0.05, 1.0), st.floats(0, 1))
    def test_filters_keep_the_likeliest_and_forbid_what_was_forbidden(
        self, given: Any, temperature: float, top_k: int, top_p: float, min_p: float
    ) -> None:
        base, *_ = given
        b = len(base)
        found = fusion.shape(
            base,
            torch.full((b,), temperature),
            torch.full((b,), top_k),
            torch.full((b,), top_p),
            torch.full((b,), min_p),
        )
        assert bool((found[base == NEVER] == NEVER).all())
        assert torch.equal(found.argmax(-1), base.argmax(-1))
        assert found.exp().sum(-1).tolist() == pytest.approx([1.0] * b, abs=1e-5)
        if top_k:
            assert int(found.isfinite().sum(-1).max()) <= top_k

    @many
    @given(rows(), st.integers(-(2**65), 2**65), st.integers(0, 10**6))
    def test_a_draw_is_always_possible(self, given: Any, seed: int, position: int) -> None:
        base, *_ = given
        u = torch.full((len(base),), fusion.uniform(seed, position), dtype=torch.float64)
        tokens = fusion.draw(base, u)
        assert bool(base.gather(-1, tokens[:, None]).isfinite().all())


# --- engines -------------------------------------------------------------------------------------

PROMPTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w2 w3", "w3 w3"]
SAMPLED = Sampling(max_new_tokens=6, temperature=1.0)


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    """A base with ARMs a, b and c over twelve words, all random."""
    return engine_of([1, 2, 3, 4])


class Local:
    """The local engine."""

    def tokens(self, engine: LocalEngine, requests: list[Request]) -> list[list[int]]:
        return [list(c.token_ids) for c in engine.generate(requests)]

    def fused(self, engine: LocalEngine, request: Request) -> list[float]:
        [answer] = engine.generate([request], report=True)
        return [token.logp_fused for token in answer.tokens]


class Reference:
    """The specification, on the same models."""

    def tokens(self, engine: LocalEngine, requests: list[Request]) -> list[list[int]]:
        return [specified(engine, request) for request in requests]

    def fused(self, engine: LocalEngine, request: Request) -> list[float]:
        ids = specified(engine, request)
        return [
            float(specified_logp(engine, request, ids[:t])[token]) for t, token in enumerate(ids)
        ]


@pytest.fixture(scope="module", params=[Local(), Reference()], ids=["local", "reference"])
def run(request: pytest.FixtureRequest) -> Any:
    return request.param


def same(
    run: Any, one: LocalEngine, two: LocalEngine, a: Request, b: Request | None = None
) -> None:
    """Two engines answer with the same tokens and the same fused log-probs."""
    b = b or a
    assert run.tokens(one, [a]) == run.tokens(two, [b])
    assert run.fused(one, a) == nats(run.fused(two, b))


preferences = st.tuples(weights, weights, weights).map(lambda w: dict(zip("abc", w, strict=True)))
prompts = st.sampled_from(PROMPTS)
strengths = st.floats(0.1, 4.0)


@pytest.mark.parametrize("seed", range(3))
def test_strength_zero_is_the_base(run: Any, engine: LocalEngine, seed: int) -> None:
    sampling = SAMPLED.but(seed=seed)
    for prompt in PROMPTS:
        steered = Request(prompt, strength=0.0, sampling=sampling)
        base = Request(prompt, sampling=sampling)
        assert run.tokens(engine, [steered]) == run.tokens(alone(engine), [base])
        assert run.fused(engine, steered) == run.fused(alone(engine), base)  # bit for bit


def test_strength_zero_reports_the_base_on_every_token(engine: LocalEngine) -> None:
    answers = engine.generate(PROMPTS, strength=0, report=True, max_new_tokens=6)
    assert all(t.logp_fused == t.logp_base for answer in answers for t in answer.tokens)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_one_hot_preference_is_the_single_arm(run: Any, engine: LocalEngine, name: str) -> None:
    one_hot = {other: float(other == name) for other in "abc"}
    for seed, prompt in enumerate(PROMPTS):
        sampling = SAMPLED.but(seed=seed)
        same(
            run,
            engine,
            alone(engine, name),
            Request(prompt, one_hot, 1.5, sampling),
            Request(prompt, None, 1.5, sampling),
        )


@few
@given(data=st.data())
def test_a_constant_added_to_a_stream_changes_nothing(
    run: Any, engine: LocalEngine, data: st.DataObject
) -> None:
    request = Request(
        data.draw(prompts), data.draw(preferences), data.draw(strengths), SAMPLED.but(seed=5)
    )
    name = data.draw(st.sampled_from(["base", *engine.objectives]))
    constant = data.draw(constants)
    before = run.tokens(engine, [request]), run.fused(engine, request)
    with changed_logits(engine, name, lambda logits: logits + constant):
        assert run.tokens(engine, [request]) == before[0]
        assert run.fused(engine, request) == nats(before[1])


def test_scale_multiplies_strength(run: Any) -> None:
    """An ARM of scale ½ at strength 3 is the ARM of scale 1 at strength 1.5."""
    base, arm = stream("base", 1, 12), stream("a", 2, 12)
    halved = LocalEngine(base, [replace(arm, scale=0.5)])
    for seed, prompt in enumerate(PROMPTS):
        sampling = SAMPLED.but(seed=seed)
        one, two = Request(prompt, None, 3.0, sampling), Request(prompt, None, 1.5, sampling)
        same(run, halved, LocalEngine(base, [arm]), one, two)


@pytest.mark.parametrize("name", ["strength", "preference", "scale"])
def test_weights(name: str) -> None:
    """w = strength · preference · scale: 2 · (¾, ¼) · (1, ½) = (1.5, .25); 3 : 1 is (¾, ¼)."""
    preference = {"preference": "a=3,b=1"}.get(name, "a=0.75,b=0.25")
    steering = Steering.of(["a", "b"], preference, 4.0 if name == "strength" else 2.0)
    scales = {"a": 1.0, "b": 2.0} if name == "scale" else {"a": 1.0, "b": 0.5}
    expected = {"strength": [3.0, 0.5], "preference": [1.5, 0.25], "scale": [1.5, 1.0]}[name]
    assert [steering.share([name], scales[name]) for name in scales] == [
        (weight, [1.0]) for weight in expected
    ]


@few
@given(data=st.data())
def test_the_order_of_objectives_changes_nothing(
    run: Any, engine: LocalEngine, data: st.DataObject
) -> None:
    order = data.draw(st.permutations("abc"))
    preference = data.draw(preferences)
    reordered = {name: preference[name] for name in order}
    strength, sampling = data.draw(strengths), SAMPLED.but(seed=data.draw(seeds))
    prompt = data.draw(prompts)
    same(
        run,
        engine,
        alone(engine, *order),
        Request(prompt, preference, strength, sampling),
        Request(prompt, reordered, strength, sampling),
    )


@few
@given(data=st.data())
def test_what_the_base_forbids_is_never_said(
    run: Any, engine: LocalEngine, data: st.DataObject
) -> None:
    """Ten of twelve tokens are forbidden, at a temperature that would say anything."""
    allowed = data.draw(st.sets(st.integers(0, 11), min_size=2, max_size=2))

    def forbid(logits: Tensor) -> Tensor:
        mask = torch.ones(logits.shape[-1], dtype=torch.bool)
        mask[list(allowed)] = False
        return logits.masked_fill(mask, NEVER)

    sampling = SAMPLED.but(temperature=5.0, seed=data.draw(seeds), max_new_tokens=10)
    request = Request(data.draw(prompts), data.draw(preferences), data.draw(strengths), sampling)
    with changed_logits(engine, "base", forbid):
        [tokens] = run.tokens(engine, [request])
        assert set(tokens) <= allowed
        assert all(math.isfinite(x) for x in run.fused(engine, request))


@few
@given(data=st.data())
def test_a_batch_is_its_rows(engine: LocalEngine, data: st.DataObject) -> None:
    """Rows of unequal prompts, preferences, strengths, settings and seeds."""
    requests = data.draw(st.lists(any_request(), min_size=2, max_size=5))
    together = engine.generate(requests, report=True)
    for request, row in zip(requests, together, strict=True):
        [single] = engine.generate([request], report=True)
        assert row.token_ids == single.token_ids
        assert row.text == single.text
        assert numbers(row) == nats(numbers(single))


@few
@given(data=st.data())
def test_a_row_does_not_depend_on_its_company(engine: LocalEngine, data: st.DataObject) -> None:
    """The same request first, last or in a batch of another size: the same tokens."""
    request = data.draw(any_request())
    others = st.lists(any_request(), max_size=3)
    before, after = data.draw(others), data.draw(others)
    [single] = engine.generate([request])
    answers = engine.generate([*before, request, *after], batch_size=data.draw(st.integers(1, 8)))
    assert answers[len(before)].token_ids == single.token_ids


@st.composite
def any_request(draw: Any) -> Request:
    sampling = Sampling(
        max_new_tokens=draw(st.integers(1, 8)),
        temperature=draw(st.sampled_from([0.0, 0.7, 1.0, 2.0])),
        top_k=draw(st.sampled_from([0, 0, 3])),
        top_p=draw(st.sampled_from([1.0, 1.0, 0.8])),
        min_p=draw(st.sampled_from([0.0, 0.0, 0.1])),
        seed=draw(seeds),
    )
    return Request(
        draw(prompts), draw(preferences), draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])), sampling
    )


def numbers(answer: Completion) -> list[float]:
    """Every log-prob in a report."""
    return [x for t in answer.tokens for x in (t.logp_base, *t.rewards.values(), t.logp_fused)]


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_dpo_is_recovered_at_strength_one(run: Any, constant: float) -> None:
    """On one body with heads W_ref and W_dpo, the head W_dpo − W_ref has the logits' difference.

    Its distribution is π_dpo / π_ref up to normalisation, so fused with π_ref it is π_dpo.
    """
    ref = engine_of([1]).base
    w_ref = ref.model.lm_head.weight.detach()
    w_dpo = engine_of([2]).base.model.lm_head.weight.detach()
    guided = LocalEngine(ref, [with_head(ref, w_dpo - w_ref, "dpo")])
    tuned = LocalEngine(with_head(ref, w_dpo))
    with changed_logits(guided, "dpo", lambda logits: logits + constant):
        for seed, prompt in enumerate(PROMPTS):
            request = Request(prompt, sampling=SAMPLED.but(seed=seed))
            same(run, guided, tuned, request)


def test_tables_without_a_model() -> None:
    """The specification on two hand-made tables: (½, ¼, ¼) · (¼, ¼, ½) = (2, 1, 2)/5.

    u = .39 falls to token 0, .41 to token 1, .61 to token 2.
    """
    base, arm = torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor([0.25, 0.25, 0.5]).log()
    streams = reference.Stream(lambda ids: base, [1]), reference.Stream(lambda ids: arm, [2])
    logp = reference.next_logp(streams[0], streams[1:], [], [1.0])
    assert logp.exp().tolist() == pytest.approx([0.4, 0.2, 0.4])
    u = torch.tensor([0.39, 0.41, 0.61], dtype=torch.float64)
    assert fusion.draw(logp.expand(3, 3), u).tolist() == [0, 1, 2]
