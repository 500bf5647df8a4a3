"""Who wins each pair of answers: by a scorer's two scores, or by whatever judges pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.comparison.sides import Meeting, Pair
from trimtab.errors import ConfigError
from trimtab.jobs import Progress

Verdict = float | None
"""1: A's answer is better. 0: B's is. ½: a tie. None: not known (no score, no readable reply)."""

PairJudge = Callable[[Sequence[Pair], Progress], Sequence[Verdict]]
"""Gives a verdict for each pair, in their order; it is told whom to tell how far it is."""

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
    """

    name: str
    verdicts: Sequence[Verdict]
    scores_a: SideScores | None = None
    scores_b: SideScores | None = None
    cost: bool = False


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


def by_pairs(name: str, meeting: Meeting, judge: PairJudge, progress: Progress) -> Judged:
    """The verdicts of a judge that is shown both answers.

    Raises:
        ConfigError: it gives too few, too many, or what is no verdict.
    """
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


def verdict_of(a: float | None, b: float | None, *, cost: bool = False) -> Verdict:
    """1 where A's score is better, 0 where B's is, ½ if they are equal; None if one is missing."""
    if a is None or b is None:
        return None
    return 0.5 if a == b else float((a > b) != cost)
