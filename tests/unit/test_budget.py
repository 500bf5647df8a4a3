"""The KL budget and the gate: the numbers by hand, the laws, and what an engine does with them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from oracle import GREEDY, specification, specified, stream, templated, with_lora
from rounding import nats
from torch import Tensor

from trimtab import fusion
from trimtab.engines import reference
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.packed_rows import PackedRows
from trimtab.engines.types import Request

NEVER = float("-inf")
SIZE = 12


def kl_at(base: Tensor, arms: Tensor, weights: Tensor, share: Tensor) -> Tensor:
    """KL of each row from its base at a share of its weights, in float64.

    Log-probs in float32 sum to 1 within a rounding of it, some 1e-7, which is a KL that no share
    explains: the base is normalised anew.
    """
    base, arms = base.double().log_softmax(-1), arms.double()
    w = (weights * share[:, None]).double()
    return fusion.divergence(fusion.fuse(base, arms, w), base)


def share_of(base: tuple[float, ...], arm: tuple[float, ...], budget: float, w: float = 1) -> float:
    found = fusion.strength_within(
        torch.tensor([base]).log(),
        torch.tensor([[arm]]).log(),
        torch.tensor([[w]]),
        torch.tensor([budget]),
    )
    return float(found)


class TestByHand:
    """Base (½, ½), ARM (a, 1 − a): at share c the odds are (a / (1 − a))^c.

    With a = 4/5 and c = ½ the odds are 2, so p = 2/3 and KL = 2/3 ln 4/3 + 1/3 ln 2/3 = ln 2 −
    (ln 3 − 2/3 ln 2) = 0.056633. At c = 1, 4/5 ln 8/5 + 1/5 ln 2/5 = 0.192745.
    """

    HALF = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    FULL = 4 / 5 * math.log(8 / 5) + 1 / 5 * math.log(2 / 5)

    def test_half_the_strength(self) -> None:
        """The KL grows like c² here, so a hundredth of the budget is half of that of c."""
        found = share_of((0.5, 0.5), (0.8, 0.2), self.HALF)
        assert 0.5 * 0.99 < found <= 0.5 * 1.0001

    def test_twice_the_weight_halves_the_share(self) -> None:
        found = share_of((0.5, 0.5), (0.8, 0.2), self.HALF, w=2.0)
        assert 0.25 * 0.99 < found <= 0.25 * 1.0001

    @pytest.mark.parametrize("budget", [0.1928, 1.0, math.inf])
    def test_within_the_budget(self, budget: float) -> None:
        assert budget > self.FULL
        assert share_of((0.5, 0.5), (0.8, 0.2), budget) == 1

    def test_nothing_allowed(self) -> None:
        """No budget, no steering: the base bit for bit, as at strength 0."""
        assert share_of((0.5, 0.5), (0.8, 0.2), 0.0) == 0
        assert share_of((0.26, 0.49, 0.25), (0.37, 0.23, 0.4), 0.0) == 0

    def test_an_arm_that_forbids(self) -> None:
        """(½, ¼, ¼) without its last token is ln 4/3 = .2877 away at any strength above 0.

        The ARM is even on the other two, so .29 allows all of it and .28 nothing.
        """
        assert share_of((0.5, 0.25, 0.25), (0.5, 0.5, 0.0), 0.29) == 1
        assert share_of((0.5, 0.25, 0.25), (0.5, 0.5, 0.0), 0.28) == 0

    def test_what_the_base_forbids_costs_nothing(self) -> None:
        """As the two tokens above, beside a third that cannot be said."""
        found = share_of((0.5, 0.5, 0.0), (0.4, 0.1, 0.5), self.HALF)
        assert 0.5 * 0.99 < found <= 0.5 * 1.0001

    def test_base_and_arm_share_no_token(self) -> None:
        """Fused is the base then, which any budget allows."""
        assert share_of((0.5, 0.5, 0.0), (0.0, 0.0, 1.0), 0.01) == 1

    @pytest.mark.parametrize("w", [1e2, 1e3, 1e4, 1e5, 1e6])
    def test_any_strength(self, w: float) -> None:
        """What is kept of it is ½, as at weight 1; so is it of a budget next to nothing.

        There the KL is c² · Var(g) / 2 with g = ± ln 2: 1e-10 at c = 2.04e-5.
        """
        found = w * share_of((0.5, 0.5), (0.8, 0.2), self.HALF, w=w)
        assert 0.5 * 0.999 < found <= 0.5 * 1.0001
        tiny = w * share_of((0.5, 0.5), (0.8, 0.2), 1e-10, w=w)
        assert tiny == pytest.approx((2e-10) ** 0.5 / math.log(2), rel=1e-3)

    def test_each_row_has_its_own(self) -> None:
        base, arm = torch.tensor([[0.5, 0.5]] * 4).log(), torch.tensor([[[0.8, 0.2]] * 4]).log()
        budgets = torch.tensor([self.HALF, math.inf, self.FULL * 1.001, self.HALF])
        weights = torch.tensor([[1.0], [1.0], [1.0], [0.0]])
        found = fusion.strength_within(base, arm, weights, budgets).tolist()
        assert found == [pytest.approx(0.5, rel=0.01), 1, 1, 1]


@st.composite
def rows(draw: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Base [B, V], ARMs [K, B, V] (some tokens impossible in either), weights and budgets."""
    k, b, v = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(2, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    logits = draw(st.sampled_from([0.1, 1.0, 3.0, 10.0])) * torch.randn(
        1 + k, b, v, generator=generator
    )
    if draw(st.booleans()):
        impossible = torch.rand(1 + k, b, v, generator=generator) < 0.2
        impossible[..., 0] = False
        logits[impossible] = NEVER
    logp = logits.log_softmax(-1)
    w = torch.tensor([[draw(st.sampled_from([0.0, 0.2, 1.0, 5.0])) for _ in range(k)]] * b)
    budgets = [draw(st.sampled_from([0.0, 1e-3, 0.01, 0.1, 1.0, 5.0, math.inf])) for _ in range(b)]
    return logp[0], logp[1:], w, torch.tensor(budgets)


@examples(300)
@given(rows())
def test_laws(given: Any) -> None:
    """Never over the budget; all of it where that is allowed; otherwise all that is allowed.

    Where an ARM forbids what the base may say, the KL jumps at once: there the share may be 0.
    """
    base, arms, w, budget = given
    share = fusion.strength_within(base, arms, w, budget)
    assert bool(((share >= 0) & (share <= 1)).all())
    kl, full = kl_at(base, arms, w, share), kl_at(base, arms, w, torch.ones_like(share))
    assert bool((kl <= budget * (1 + 1e-4) + 1e-6).all())
    assert bool((share[full <= budget * (1 - 1e-4) - 1e-6] == 1).all())
    least = kl_at(base, arms, w, torch.full_like(share, 1e-6))
    for i in range(len(share)):
        if share[i] < 1 and budget[i] >= 1e-3 and least[i] < 0.9 * budget[i]:
            assert kl[i] >= 0.98 * budget[i]


@examples(200)
@given(rows(), st.sampled_from([1e-3, 1e2, 1e3, 1e4, 1e5]))
def test_the_largest_share_at_any_strength(given: Any, times: float) -> None:
    """What is kept is within the budget, a hundredth more is not, and the strength has no part.

    A budget in which the strength fits leaves it whole, however strong it is.
    """
    base, arms, w, budget = given
    share = fusion.strength_within(base, arms, times * w, budget).double()
    kl = kl_at(base, arms, times * w, share)
    assert bool((kl <= budget.double() * (1 + 1e-6) + 1e-9).all())
    cut = (share < 1) & (share > 0)
    larger = kl_at(base, arms, times * w, (share * 1.01).float())
    room = budget - kl_at(base, arms, times * w, 1e-9 * share)  # less what is forbidden
    assert bool(((larger > budget - 0.001 * room) | ~cut).all())
    forbids = kl_at(base, arms, w, torch.full_like(budget, 1e-12)) > 0.999 * budget
    assert bool(((share > 0) | (budget == 0) | forbids).all())


# --- engines -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    """A base with a LoRA that has a template, and two ARMs of their own."""
    base = stream("base", 1, SIZE)
    lora = templated(with_lora(base, "a", 3), "w5 w6")
    return LocalEngine(base, [lora, stream("b", 2, SIZE), stream("c", 4, SIZE)])


def requests(temperature: float = 0.0, **settings: Any) -> list[Request]:
    return [
        Request(
            " ".join(f"w{(i + 5 * j) % SIZE}" for j in range(1 + 3 * i)), None, strength,
            GREEDY.but(max_new_tokens=12, temperature=temperature, seed=i), **settings,
        )
        for i, strength in enumerate((1.0, 3.0, 0.5))
    ]  # fmt: skip


@pytest.mark.parametrize("speculate", ["off", "on"])
class TestBudget:
    @pytest.mark.parametrize("budget", [0.01, 0.1, 1.0])
    def test_no_token_is_further_away(
        self, engine: LocalEngine, speculate: Any, budget: float
    ) -> None:
        """And the strength that is reported is the one that was used."""
        asked = requests(1.0, kl_budget=budget)
        for request, answer in zip(
            asked, engine.generate(asked, report=True, speculate=speculate), strict=True
        ):
            assert max(t.kl for t in answer.tokens) <= budget * 1.001
            for token in answer.tokens:
                assert 0 <= token.strength <= request.strength
                if token.strength < request.strength:
                    assert token.kl == pytest.approx(budget, rel=0.02)
        for t, token in enumerate(answer.tokens):
            base, *arms = specification(engine, request)
            weights = [token.strength / 3] * 3
            logp = reference.next_logp(base, arms, list(answer.token_ids[:t]), weights)
            assert token.logp_fused == nats(float(logp[token.token_id]))

    def test_no_budget_is_the_base(self, engine: LocalEngine, speculate: Any) -> None:
        bound = engine.generate(requests(kl_budget=0.0), speculate=speculate)
        base = LocalEngine(engine.base).generate(requests())
        assert [a.token_ids for a in bound] == [a.token_ids for a in base]

    def test_a_large_budget_is_none(self, engine: LocalEngine, speculate: Any) -> None:
        for temperature in (0.0, 1.0):
            plain = engine.generate(requests(temperature), speculate=speculate)
            bound = engine.generate(requests(temperature, kl_budget=1e9), speculate=speculate)
            assert [a.token_ids for a in bound] == [a.token_ids for a in plain]


def gated(engine: LocalEngine, request: Request) -> tuple[list[int], int]:
    """The specification with weights of 0 where the base is surer than the gate; and how often."""
    plan, sampling, gate = engine.plan(request), request.sampling, request.gate
    assert gate is not None
    base, *arms = specification(engine, request)
    said: list[int] = []
    shut = 0
    while len(said) < sampling.max_new_tokens:
        sure = base.logp(said).exp().max() > gate
        weights = [0.0] * len(arms) if sure else plan.weights
        shut += bool(sure)
        logp = reference.next_logp(base, arms, said, weights)[None]
        u = torch.tensor([fusion.uniform(sampling.seed, len(said))], dtype=torch.float64)
        said.append(int(fusion.choose(logp, torch.tensor([sampling.temperature]), u)))
    return said, shut


class TestGate:
    @pytest.mark.parametrize("gate", [0.3, 0.45, 0.7])
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_is_the_specification(
        self, engine: LocalEngine, gate: float, temperature: float
    ) -> None:
        """Rows pass it at different tokens; the ARMs catch up before they speak again."""
        asked = requests(temperature, gate=gate)
        answers = engine.generate(asked, report=True)
        expected = [gated(engine, request) for request in asked]
        assert [(list(a.token_ids), a.gated) for a in answers] == expected
        for answer in answers:
            assert sum(not token.rewards for token in answer.tokens) == answer.gated
            assert all(
                token.strength == token.kl == 0 for token in answer.tokens if not token.rewards
            )

    def test_speculating(self, engine: LocalEngine) -> None:
        asked = requests(gate=0.45)
        answers = engine.generate(asked, speculate="on")
        assert [(list(a.token_ids), a.gated) for a in answers] == [gated(engine, r) for r in asked]
        assert 0 < sum(a.gated for a in answers) < 36

    def test_the_ends(self, engine: LocalEngine) -> None:
        """A gate of 1 is never passed; one of next to nothing always."""
        never = engine.generate(requests(gate=1.0))
        assert [list(a.token_ids) for a in never] == [specified(engine, r) for r in requests()]
        assert [a.gated for a in never] == [0, 0, 0]
        always = engine.generate(requests(gate=1e-6))
        base = LocalEngine(engine.base).generate(requests())
        assert [a.token_ids for a in always] == [a.token_ids for a in base]
        assert [a.gated for a in always] == [12, 12, 12]

    def test_arms_are_not_read(self, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        """One row, and reads of an ARM with weights of its own: the prompt, and one per token that
        the gate lets through after the first."""
        calls: list[int] = []
        forward = PackedRows.forward

        def counted(slots: PackedRows, *args: Any, **more: Any) -> Any:
            calls.append(engine.groups.index(slots.group))
            return forward(slots, *args, **more)

        monkeypatch.setattr(PackedRows, "forward", counted)
        [request] = requests(gate=0.45)[:1]
        [answer] = engine.generate([request], report=True)
        let_through = sum(bool(token.rewards) for token in answer.tokens[1:])
        assert 0 < let_through < 11
        assert [calls.count(group) for group in range(3)] == [12, 1 + let_through, 1 + let_through]


def test_both(engine: LocalEngine) -> None:
    """A gate and a budget, in one row and in rows beside others that have one or none."""
    asked = [*requests(gate=0.45, kl_budget=0.05)[:2], requests(gate=0.45)[0], requests()[2]]
    answers = engine.generate(asked, report=True)
    assert max(t.kl for a in answers[:2] for t in a.tokens) <= 0.05 * 1.001
    assert 0 < answers[0].gated < 12
    assert (list(answers[2].token_ids), answers[2].gated) == gated(engine, asked[2])
    assert list(answers[3].token_ids) == specified(engine, asked[3])
