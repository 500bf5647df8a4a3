"""Who wins each pair of answers: by a scorer's two scores, or by whatever judges pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.comparison.sides import Meeting, Pair
from trimtab.errors import ConfigError
from trimtab.jobs import Progress, Say
from trimtab.scoring.duels import Duel
from trimtab.scoring.duels import Verdict as OrderVerdict
from trimtab.scoring.pairwise import PairwiseJudge

Verdict = float | None
"""A's answer is better: 1. B's is: 0. ½: a tie. None: not known (no score, no readable reply).
Of a judge asked in both orders the mean: above ½ A wins, below it loses."""

PairJudge = Callable[[Sequence[Pair], Progress], Sequence[Verdict]]
"""Gives a verdict for each pair, in their order; it is told whom to tell how far it is."""

Judges = Mapping[str, PairJudge | PairwiseJudge]

SideScores = Sequence[Sequence[float | None]]
"""[seeds, slots] of one side."""


@dataclass(frozen=True)
class Judged:
    """What one judge says of all pairs.

    Attributes:
        name: the judge's.
        verdicts: one for each of `Meeting.pairs`.
        scores_a, scores_b: of each side's answers, where the judge scores answers.
        cost: less is better.
        orders: what it says of each pair in either order, where it was asked in both.
        facts: what else is reported of it.
    """

    name: str
    verdicts: Sequence[Verdict]
    scores_a: SideScores | None = None
    scores_b: SideScores | None = None
    cost: bool = False
    orders: Sequence[OrderVerdict | None] | None = None
    facts: Mapping[str, Any] | None = None


def by_scores(
    name: str, meeting: Meeting, scores: Sequence[float | None], *, cost: bool = False
) -> Judged:
    """The verdicts of a scorer: the higher score wins, or the lower one of a cost.

    Args:
        name: of the scorer.
        meeting: the sides.
        scores: of all of A's answers, seed after seed, then of all of B's; None where missing.
        cost: less is better.
    """
    slots, seeds = len(meeting.prompt_of), len(meeting.a.files)
    cut = [scores[start : start + slots] for start in range(0, len(scores), slots)]
    a, b = cut[:seeds], cut[seeds:]
    verdicts = [
        verdict_of(a[pair.seed_a][pair.slot], b[pair.seed_b][pair.slot], cost=cost)
        for pair in meeting.pairs()
    ]
    return Judged(name, verdicts, a, b, cost)


def made_judges(judges: Mapping[str, str | PairJudge | PairwiseJudge]) -> Judges:
    """Judges of pairs, those behind a server made from their specs.

    Raises:
        ConfigError: a spec that cannot be read.
    """
    return {
        name: PairwiseJudge(judge) if isinstance(judge, str) else judge
        for name, judge in judges.items()
    }


def require_affordable(meeting: Meeting, judges: Judges) -> None:
    """Refuse judges that would cost more than they may, before anything is asked.

    Raises:
        ConfigError: one would, by the estimate.
    """
    for judge in judges.values():
        if isinstance(judge, PairwiseJudge):
            judge.plan(_duels(meeting))


def by_pairs(
    name: str, meeting: Meeting, judge: PairJudge | PairwiseJudge, progress: Progress, say: Say
) -> Judged:
    """The verdicts of a judge that is shown both answers.

    Raises:
        ConfigError: it gives too few, too many, or what is no verdict.
    """
    if isinstance(judge, PairwiseJudge):
        judging = judge.verdicts(_duels(meeting), progress=progress, say=say)
        scores = [found.score if found else None for found in judging.verdicts]
        facts = {"judge": dict(judge.identity), "replies": judging.facts()}
        return Judged(name, scores, orders=judging.verdicts, facts=facts)
    pairs = meeting.pairs()
    verdicts = list(judge(pairs, progress))
    odd = [verdict for verdict in verdicts if verdict not in (None, 0, 0.5, 1)]
    if odd or len(verdicts) != len(pairs):
        what = (
            f"says {odd[0]!r}" if odd else f"gives {len(verdicts)} verdicts on {len(pairs)} pairs"
        )
        raise ConfigError(
            f"the judge {name!r} {what}", "a pair's verdict is 1 (A is better), 0.5, 0 or None"
        )
    return Judged(name, verdicts)


def _duels(meeting: Meeting) -> list[Duel]:
    return [Duel(p.a.prompt, p.a.response, p.b.response) for p in meeting.pairs()]


def verdict_of(a: float | None, b: float | None, *, cost: bool = False) -> Verdict:
    """1 where A's score is better, 0 where B's is, ½ if they are equal; None if one is missing."""
    if a is None or b is None:
        return None
    return 0.5 if a == b else float((a > b) != cost)
