"""Speculation: what is learned, how long to draft, and the whole engine's tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from oracle import GREEDY, specified_logp, stream, with_head, with_lora
from scipy import stats

from trimtab import fusion
from trimtab.engines.local.batch import Batch
from trimtab.engines.local.drafting import ModelDrafter, NgramDrafter, continuation
from trimtab.engines.local.drafts import (
    FIRST,
    Acceptance,
    DraftRates,
    PassCosts,
    Wish,
    best_lengths,
)
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.types import Request


class TestAcceptance:
    def test_numbers(self) -> None:
        """1.4 of 2. A round of 4 drafts, all kept: .9 · 1.4 + 4 = 5.26 of .9 · 2 + 4 = 5.8; one of
        4, where the second one ends it: .9 · 5.26 + 1 = 5.734 of .9 · 5.8 + 2 = 7.22."""
        acceptance = Acceptance(1.4)
        assert acceptance.rate == pytest.approx(0.7)
        acceptance.learn(4, 4)
        assert acceptance.rate == pytest.approx(5.26 / 5.8)
        acceptance.learn(1, 4)
        assert acceptance.rate == pytest.approx(5.734 / 7.22)

    def test_nothing_kept_comes_to_nothing(self) -> None:
        """No floor that drafting could live on for ever: 100 refusals, and less than 1 in 1000."""
        acceptance = Acceptance(1.4)
        for _ in range(100):
            acceptance.learn(0, 1)
        assert acceptance.rate < 1e-3

    def test_it_gets_another_chance(self) -> None:
        """Undrafted rounds bring the rate back to a tenth of what it was in 20 to 60 of them."""
        rates = DraftRates()
        for _ in range(100):
            rates.learn(0, 0, 1)
        rounds = 0
        while rates.kinds[0].rate < 0.1 * FIRST[0]:
            rates.learn(0, 0, 0)
            rounds += 1
        assert 15 < rounds < 60


class TestPassCosts:
    def test_at_first(self) -> None:
        assert PassCosts(0.08).line == (1.0, 0.08)

    def test_one_size_leans_to_the_ratio(self) -> None:
        """Passes of 8 tokens that take 3.28: 2 and 2 · .08 = .16 a token."""
        costs = PassCosts(0.08)
        for _ in range(50):
            costs.learn(8, 3.28)
        assert costs.line == pytest.approx((2.0, 0.16), rel=1e-3)

    def test_two_sizes_are_a_line(self) -> None:
        """1 + .5 · tokens, seen at 1 and 9 tokens: nearly that, whatever the ratio says."""
        costs = PassCosts(0.08)
        for _ in range(50):
            costs.learn(1, 1.5)
            costs.learn(9, 5.5)
        fixed, each = costs.line
        assert each == pytest.approx(0.5, rel=0.1) and fixed == pytest.approx(1.0, rel=0.25)

    def test_old_passes_are_forgotten(self) -> None:
        costs = PassCosts(0.08)
        for seconds in [1.0] * 100 + [3.0] * 300:
            costs.learn(1, seconds)
        fixed, each = costs.line
        assert fixed + each == pytest.approx(3.0, rel=0.02)


class TestBestLengths:
    def test_one_row(self) -> None:
        """A pass of 1 + .08, a draft for .08: 1/1.08 tokens each. At .5 a draft is worth .5, .25,
        .125 while its price is .074: three, and at the better rate that they give (1.875/1.32 =
        1.42, a price of .114) still three."""
        assert best_lengths([Wish(0.5, 8, 1)], 1, (1.0, 0.08)) == [3]

    def test_what_never_pays_is_not_drafted(self) -> None:
        assert best_lengths([Wish(0.05, 8, 1)], 1, (1.0, 0.08)) == [0]
        assert best_lengths([Wish(0.05, 8, 1, least=1)], 1, (1.0, 0.08)) == [1]
        assert best_lengths([Wish(0.9, 0, 1, least=1)], 1, (1.0, 0.08)) == [0]

    def test_a_full_batch_drafts_less(self) -> None:
        """At .3: one row pays .074 a draft and takes two, 32 rows pay 32/3.56 · .08 = .72."""
        alone = best_lengths([Wish(0.3, 8, 1)], 1, (1.0, 0.08))
        together = best_lengths([Wish(0.3, 8, 1)] * 32, 32, (1.0, 0.08))
        assert alone == [2] and together == [0] * 32

    def test_streams_cost(self) -> None:
        """A draft is verified by every stream of its row."""
        assert best_lengths([Wish(0.4, 8, 5)], 5, (1.0, 0.08)) == [1]

    def test_rows_of_their_own(self) -> None:
        found = best_lengths([Wish(0.9, 8, 1), Wish(0.01, 8, 1)], 2, (1.0, 0.08))
        assert found[0] >= 4 and found[1] == 0

    def test_a_model_that_drafts_costs(self) -> None:
        """A pass of the drafter that takes .9 of the target's: nothing to win at .7."""
        assert best_lengths([Wish(0.7, 8, 1)], 1, (1.0, 0.08), 0.9) == [0]
        assert best_lengths([Wish(0.7, 8, 1)], 1, (1.0, 0.08), 0.1)[0] >= 2


@pytest.mark.parametrize(
    ("ids", "length", "expected"),
    [
        ([1, 2, 3, 9, 1, 2, 3], 2, (3, [9, 1])),
        ([5, 2, 3, 9, 1, 2, 3], 2, (2, [9, 1])),
        ([5, 6, 3, 9, 1, 2, 3], 9, (1, [9, 1, 2, 3])),
        ([1, 7, 1, 8, 1], 1, (1, [8])),  # the last time
        ([1, 2, 3], 4, (0, [])),
        ([4], 4, (0, [])),
    ],
)
def test_continuation(ids: list[int], length: int, expected: tuple[int, list[int]]) -> None:
    assert continuation(ids, length) == expected


# --- the whole engine ----------------------------------------------------------------------------

SIZE, DEPTH, COUNT, ALARM = 5, 3, 1500, 1e-6
PROMPT = "w1 w2 w1"
FILTERS = {"temperature": 1.3, "top_k": 4, "top_p": 0.9, "min_p": 0.05}


def probabilities(engine: LocalEngine, request: Request) -> dict[tuple[int, ...], float]:
    """The specification's probability of every beginning of three tokens."""
    s = request.sampling
    found: dict[tuple[int, ...], float] = {(): 1.0}
    settings = [torch.tensor([x]) for x in (s.temperature, s.top_k, s.top_p, s.min_p)]
    for _ in range(DEPTH):
        longer: dict[tuple[int, ...], float] = {}
        for said, p in found.items():
            logp = specified_logp(engine, request, list(said))[None]
            after = fusion.shape(logp, *settings)[0].exp().tolist()
            longer |= {(*said, token): p * after[token] for token in range(SIZE)}
        found = longer
    return found


def sampled(
    engine: LocalEngine, request: Request, drafter: Any = None
) -> tuple[list[list[int]], float]:
    """Tokens under 1500 seeds, and the share of drafts that were kept."""
    run = engine.scheduler(most=64)
    if drafter is not None:
        engine._speculation.drafter = drafter
        engine._speculation.wish = lambda row, most: Wish(  # type: ignore[method-assign]
            1.0, drafter.offer(row, min(most, 3)).most, 1, 3
        )
    request = replace(request, speculate="off" if drafter is None else "on")
    plan = engine.plan(request)
    rows = [
        run.add(seed, replace(plan, sampling=plan.sampling.but(seed=seed))) for seed in range(COUNT)
    ]
    while run.busy:
        run.step()
    drafted, accepted = sum(row.drafted for row in rows), sum(row.accepted for row in rows)
    return [row.ids for row in rows], accepted / max(drafted, 1)


def p_value(counts: Counter[Any], expected: dict[tuple[int, ...], float]) -> float:
    """Chi-square of counts, with cells of less than 8 expected put together."""
    assert set(counts) <= {cell for cell, p in expected.items() if p > 0}
    rare = [cell for cell, p in expected.items() if p * COUNT < 8]
    cells = [cell for cell in expected if cell not in set(rare)]
    found = [*(counts[cell] for cell in cells), sum(counts[cell] for cell in rare)]
    wanted = [*(expected[cell] for cell in cells), sum(expected[cell] for cell in rare)]
    if wanted[-1] * COUNT < 8:
        found[0], wanted[0] = found[0] + found.pop(), wanted[0] + wanted.pop()
    scaled = [COUNT * p / sum(wanted) for p in wanted]
    return float(stats.chisquare(found, scaled).pvalue)


def draft_engine(kind: str) -> tuple[LocalEngine, Any]:
    """An engine and its drafter."""
    base, arm = stream("base", 1, SIZE), stream("a", 2, SIZE)
    if kind == "text":
        return LocalEngine(base, [arm]), NgramDrafter()
    if kind == "arm":
        engine = LocalEngine(base, [with_lora(base, "a", 3), replace(arm, name="b")])
        return engine, ModelDrafter(1, engine.groups[1], engine._model)
    drafts = {
        "the base itself": lambda: stream("draft", 1, SIZE),
        "a flatter base": lambda: with_head(base, 0.4 * base.model.lm_head.weight, "draft"),
        "the opposite": lambda: with_head(base, -4 * base.model.lm_head.weight, "draft"),
    }
    arms = [] if kind == "the base itself" else [arm]
    engine = LocalEngine(base, arms, draft=drafts[kind]())
    return engine, ModelDrafter(len(arms) + 1, engine.groups[-1], engine._model)


def request(**sampling: Any) -> Request:
    settings = {"temperature": 1.0, "max_new_tokens": 5, **sampling}
    return Request(PROMPT, sampling=GREEDY.but(**settings))


@pytest.mark.parametrize(
    ("kind", "filters", "least", "most"),
    [
        ("the base itself", {}, 0.999, 1.0),
        ("a flatter base", {}, 0.2, 0.9),
        ("the opposite", {}, 0.0, 0.15),
        ("arm", {}, 0.2, 0.95),
        ("arm", FILTERS, 0.2, 0.95),
        ("text", FILTERS, 0.02, 0.9),
    ],
)
def test_the_tokens_and_the_distribution_are_those_without_drafts(
    kind: str, filters: dict[str, Any], least: float, most: float
) -> None:
    """1500 seeds, three drafts a round: the very tokens, which have the specification's
    distribution. An exact engine fails one of these once in 10⁶ times."""
    engine, drafter = draft_engine(kind)
    plain, _ = sampled(engine, request(**filters))
    drafted, share = sampled(engine, request(**filters), drafter)
    assert drafted == plain
    assert least <= share <= most
    counts = Counter(tuple(ids[:DEPTH]) for ids in drafted)
    assert p_value(counts, probabilities(engine, request(**filters))) > ALARM


def test_a_wrong_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeping the first draft unseen: the distribution test fails."""
    tokens = Batch._tokens

    def keeps(self: Batch, rows: Any, drafts: Any, *others: Any) -> Any:
        chosen = tokens(self, rows, drafts, *others)
        return [[ids[0], *new[1:]] if ids else new for ids, new in zip(drafts, chosen, strict=True)]

    monkeypatch.setattr(Batch, "_tokens", keeps)
    engine, drafter = draft_engine("arm")
    drafted, _ = sampled(engine, request(), drafter)
    counts = Counter(tuple(ids[:DEPTH]) for ids in drafted)
    assert p_value(counts, probabilities(engine, request())) < ALARM
