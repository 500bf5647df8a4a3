"""Verdicts from scores: which side of a pair is better on each objective, and who agrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from trimtab.evaluation.stats import Estimate, share

Label = int | None
Labels = Mapping[str, Label]
Sides = tuple[float | None, float | None]


def label_of(scores: Sides, *, cost: bool = False) -> Label:
    """0 where the chosen side is better, 1 where the rejected one is, None for a tie.

    None, too, where a score is missing. Of a cost, less is better.
    """
    chosen, rejected = scores
    if chosen is None or rejected is None or chosen == rejected:
        return None
    return int((chosen < rejected) != cost)


def tally(
    labels: Sequence[Labels], scores: Sequence[Mapping[str, Sides]], name: str
) -> dict[str, int]:
    """How many pairs say each thing on one objective; a pair that lacks a score is no tie."""
    found = [row[name] for row in labels]
    missing = sum(None in row[name] for row in scores)
    return {
        "chosen": found.count(0),
        "rejected": found.count(1),
        "tie": found.count(None) - missing,
        "missing": missing,
    }


def agreement(labels: Sequence[Labels], objectives: Sequence[str]) -> dict[str, Estimate]:
    """Share of pairs on which two objectives agree, among those that both decide.

    `chosen` stands for the data's own verdict.
    """
    own = [{**row, "chosen": 0} for row in labels]
    found = {}
    for a, b in combinations(["chosen", *objectives], 2):
        both = [row[a] == row[b] for row in own if row[a] is not None and row[b] is not None]
        found[f"{a} and {b}"] = share(sum(both), len(both))
    return found
