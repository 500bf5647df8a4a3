"""Speculation: the rule by hand, how long to draft, and the whole engine's distribution."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from oracle import GREEDY, specified_logp, stream, with_head, with_lora
from scipy import stats
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local import batch
from trimtab.engines.local.drafting import ModelDrafter, NgramDrafter, Speculation
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.guided_model import GuidedModel
from trimtab.engines.local.scheduler import Scheduler
from trimtab.engines.speculation import DraftLength, verify
from trimtab.engines.types import Request

P = (1 / 2, 1 / 4, 1 / 4)
Q = (1 / 4, 1 / 2, 1 / 4)
LAST = (0.2, 0.3, 0.5)


def one(
    draft: int, u: float, q: tuple[float, ...] | None = Q, temperature: float = 1.0
) -> tuple[int, Any]:
    """One row, one draft: p before it is P, after it LAST."""
    kept, logp = verify(
        torch.tensor([[P, LAST]]).log(),
        torch.tensor([[draft]]),
        None if q is None else torch.tensor([[q]]).log(),
        torch.tensor([1]),
        torch.tensor([temperature]),
        torch.tensor([[u]], dtype=torch.float64),
    )
    return int(kept), pytest.approx(logp[0].exp().tolist(), abs=1e-6)


class TestVerify:
    @pytest.mark.parametrize(
        ("draft", "u", "kept", "after"),
        [(0, 0.999, 1, LAST), (1, 0.499, 1, LAST), (1, 0.501, 0, (1, 0, 0)), (2, 0.999, 1, LAST)],
    )
    def test_one_draft(self, draft: int, u: float, kept: int, after: tuple[float, ...]) -> None:
        """p / q = (2, ½, 1): token 0 and 2 always stay, token 1 while u < ½.

        max(p − q, 0) = (¼, 0, 0): what replaces token 1 is token 0.
        """
        assert one(draft, u) == (kept, list(after))

    @pytest.mark.parametrize(
        ("u", "kept", "after"), [(0.249, 1, LAST), (0.251, 0, (2 / 3, 0, 1 / 3))]
    )
    def test_a_certain_draft(self, u: float, kept: int, after: tuple[float, ...]) -> None:
        """q = (0, 1, 0): token 1 stays while u < ¼; else p without it, (½, 0, ¼) over ¾."""
        assert one(1, u, None) == (kept, list(after))

    @pytest.mark.parametrize(("draft", "kept", "after"), [(0, 1, LAST), (1, 0, P), (2, 0, P)])
    def test_greedy(self, draft: int, kept: int, after: tuple[float, ...]) -> None:
        """The likeliest token stays, whatever u and q; another one gives way to the likeliest."""
        for u, q in itertools.product((0.0, 0.999), (Q, None)):
            assert one(draft, u, q, temperature=0.0) == (kept, list(after))

    @pytest.mark.parametrize("q", [(0.5, 0.5, 0.0), None])
    def test_what_cannot_be_said_is_refused_at_u_zero(self, q: Any) -> None:
        logp_BMV = torch.tensor([[(1.0, 0.0, 0.0), LAST]]).log()
        logq = None if q is None else torch.tensor([[q]]).log()
        u = torch.zeros(1, 1, dtype=torch.float64)
        ones = torch.ones(1, dtype=torch.int64)
        kept, logp = verify(logp_BMV, torch.tensor([[1]]), logq, ones, torch.ones(1), u)
        assert int(kept) == 0
        assert logp.exp().tolist() == [[1, 0, 0]]

    def test_rows_of_unequal_lengths(self) -> None:
        """Certain drafts (0, 1, 2) on p = P, P, P, LAST at u = .1, .1, .3: ½ and ¼ beat .1, but
        ¼ does not beat .3. Of 3 drafts two stay, and token 2 gives way to (2, 1, 0)/3.

        Of 2, of 1 and of none all stay, and the next token comes from p after them.
        """
        rows = 4
        kept, logp = verify(
            torch.tensor([[P, P, P, LAST]] * rows).log(),
            torch.tensor([[0, 1, 2]] * rows),
            None,
            torch.tensor([3, 2, 1, 0]),
            torch.ones(rows),
            torch.tensor([[0.1, 0.1, 0.3]] * rows, dtype=torch.float64),
        )
        assert kept.tolist() == [2, 2, 1, 0]
        expected = [(2 / 3, 1 / 3, 0), P, P, P]
        assert logp.exp().tolist() == [pytest.approx(row, abs=1e-6) for row in expected]

    def test_nothing_counts_behind_a_refusal(self) -> None:
        """Drafts (1, 0): the first is refused at u = .9, so the second is not asked."""
        kept, _ = verify(
            torch.tensor([[P, P, LAST]]).log(), torch.tensor([[1, 0]]), None, torch.tensor([2]),
            torch.ones(1), torch.tensor([[0.9, 0.0]], dtype=torch.float64),
        )  # fmt: skip
        assert kept.tolist() == [0]

    @pytest.mark.parametrize("seed", range(4))
    def test_what_comes_out_is_p(self, seed: int) -> None:
        """Σ_d q(d) · (kept as d, or replaced), over a grid of 2000 u: p to within the grid."""
        size, grid = 6, 2000
        generator = torch.Generator().manual_seed(seed)
        logp, logq, last = (2 * torch.randn(3, size, generator=generator)).log_softmax(-1)
        u = ((torch.arange(grid, dtype=torch.float64) + 0.5) / grid)[:, None]
        total = torch.zeros(size)
        for d in range(size):
            kept, after = verify(
                torch.stack([logp, last]).expand(grid, 2, size),
                torch.full((grid, 1), d),
                logq.expand(grid, 1, size),
                torch.ones(grid, dtype=torch.int64),
                torch.ones(grid),
                u,
            )
            replaced = after.exp() * (kept == 0)[:, None]
            total += logq[d].exp() * replaced.mean(0)
            total[d] += logq[d].exp() * kept.float().mean()
        assert total.tolist() == pytest.approx(logp.exp().tolist(), abs=2e-3)


class TestDraftLength:
    def test_numbers(self) -> None:
        """1.4 of 2 to begin with. 4 of 4: 5.4 of 6; then 1 of 4, where the second one ends it:
        1.4 + .9 · 4 + 1 = 6 of 2 + .9 · 4 + 2 = 7.6."""
        length = DraftLength(8, 0, 0.03, 0.3)
        assert length.acceptance == pytest.approx(0.7)
        length.learn(4, 4)
        assert length.acceptance == pytest.approx(0.9)
        length.learn(1, 4)
        assert length.acceptance == pytest.approx(6 / 7.6)

    def test_best(self) -> None:
        """At .7 and .33 a draft: 1.7/1.33 = 1.28, 2.19/1.66 = 1.32, 2.533/1.99 = 1.27: two.

        If a round costs 2 anyway: 2.19/2.66, 2.533/2.99, 2.773/3.32, … .823, .847, .835: three.
        """
        assert DraftLength(8, 0, 0.03, 0.3).best() == 2
        assert DraftLength(8, 0, 0.03, 0.3, fixed_cost=2.0).best() == 3
        assert DraftLength(8, 0, 0.9, 0.9).best() == 0
        assert DraftLength(8, 1, 0.9, 0.9).best() == 1
        assert DraftLength(3, 0, 0.0, 0.0).best() == 3

    def test_stops_and_comes_back(self) -> None:
        """Refusals stop drafting; rounds without drafts bring the estimate back to .7."""
        length, always = DraftLength(8, 0, 0.03, 0.3), DraftLength(8, 1, 0.03, 0.3)
        for _ in range(20):
            length.learn(0, 2)
            always.learn(0, 2)
        assert (length.best(), always.best()) == (0, 1)
        rounds = 0
        while length.best() == 0:
            length.learn(0, 0)
            rounds += 1
        assert 1 < rounds < 60
        for _ in range(20):
            length.learn(length.best(), length.best())
        assert length.best() > 4


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


def sampled(engine: LocalEngine, request: Request, drafter: Any) -> tuple[Counter[Any], float]:
    """How often each beginning came under 1500 seeds, and the share of drafts that were kept."""
    model = GuidedModel(engine.groups, engine.objectives, engine.base.tokenizer, engine.ends)
    how = Speculation(drafter, lambda: DraftLength(3, 3, 0, 0))
    plan = engine.plan(request)
    run = Scheduler(model, slots=64, length=plan.length, speculation=how)
    for seed in range(COUNT):
        drawn = replace(request, sampling=request.sampling.but(seed=seed))
        run.add(replace(plan, request=drawn))
    done = []
    while run.busy:
        done += [chunk.completion for _, chunk in run.step() if chunk.completion]
    drafted, accepted = sum(c.drafted for c in done), sum(c.accepted for c in done)
    return Counter(tuple(c.token_ids[:DEPTH]) for c in done), accepted / drafted


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
        return engine, ModelDrafter(1, engine.groups[1], engine.objectives)
    drafts = {
        "the base itself": lambda: stream("draft", 1, SIZE),
        "a flatter base": lambda: with_head(base, 0.4 * base.model.lm_head.weight, "draft"),
        "the opposite": lambda: with_head(base, -4 * base.model.lm_head.weight, "draft"),
    }
    arms = [] if kind == "the base itself" else [arm]
    engine = LocalEngine(base, arms, draft=drafts[kind]())
    return engine, ModelDrafter(len(arms) + 1, engine.groups[-1], engine.objectives)


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
def test_the_distribution_is_the_specification(
    kind: str, filters: dict[str, Any], least: float, most: float
) -> None:
    """1500 seeds, three drafts a round. An exact engine fails one of these once in 10⁶ times."""
    engine, drafter = draft_engine(kind)
    counts, share = sampled(engine, request(**filters), drafter)
    assert least <= share <= most
    assert p_value(counts, probabilities(engine, request(**filters))) > ALARM


def accept_all(logp: Tensor, drafts: Tensor, q: Any, lengths: Tensor, t: Any, u: Any) -> Any:
    return verify(logp, drafts, q, lengths, t, torch.zeros_like(u) + 1e-300)


def redraw_from_p(logp: Tensor, drafts: Tensor, q: Any, lengths: Tensor, t: Any, u: Any) -> Any:
    kept, _ = verify(logp, drafts, q, lengths, t, u)
    return kept, logp[torch.arange(len(kept)), kept]


@pytest.mark.parametrize("rule", [accept_all, redraw_from_p])
def test_a_wrong_rule_is_found(rule: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeping every draft, or drawing anew from p itself: the same test fails."""
    monkeypatch.setattr(batch, "verify", rule)
    engine, drafter = draft_engine("arm")
    counts, _ = sampled(engine, request(), drafter)
    assert p_value(counts, probabilities(engine, request())) < ALARM
