"""Verdicts from scores: which side of a pair is better on each objective, and who agrees."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations

from trimtab.stats import Estimate, share

Label = int | None
Labels = Mapping[str, Label]
Sides = tuple[float | None, float | None]
_NO_SCORES: Sides = (None, None)


def label_of(scores: Sides, *, cost: bool = False) -> Label:
    """0 where the chosen side is better, 1 where the rejected one is, None for a tie.

    None, too, where a score is missing. Of a cost, less is better.
    """
    chosen, rejected = scores
    if chosen is None or rejected is None or chosen == rejected:
        return None
    return int((chosen < rejected) != cost)


def verdict_counts(
    labels: Sequence[Labels], scores: Sequence[Mapping[str, Sides]], name: str
) -> dict[str, int]:
    """How many pairs say each thing on one objective; a pair that lacks a score is no tie."""
    verdicts = [row.get(name) for row in labels]
    missing = sum(
        label is None and None in row_scores.get(name, _NO_SCORES)
        for row_scores, label in zip(scores, verdicts, strict=True)
    )
    return {
        "chosen": verdicts.count(0),
        "rejected": verdicts.count(1),
        "tie": verdicts.count(None) - missing,
        "missing": missing,
    }


def agreement(
    labels: Sequence[Labels], objectives: Sequence[str], *, kept: bool = False
) -> dict[str, Estimate]:
    """Share of pairs on which two objectives agree, among those that both decide.

    `chosen` stands for the data's own order of sides; where labels were kept, that is among them.
    """
    rows = [{**row, "chosen": 0} for row in labels]
    names = [*([] if kept else ["chosen"]), *objectives]
    return {
        f"{a} and {b}": _agree([(row.get(a), row.get(b)) for row in rows])
        for a, b in combinations(names, 2)
    }


def agreement_with_kept(
    kept: Sequence[Labels], scores: Sequence[Mapping[str, Sides]], costs: Collection[str]
) -> dict[str, Estimate]:
    """Share of the pairs with a verdict of their own on which a scorer says the same.

    Args:
        kept: per pair, the verdicts that the data hold.
        scores: per pair, those of the scorers' objectives.
        costs: objectives of which less is better.
    """
    return {
        name: _agree(
            [
                (row_labels.get(name), label_of(scored[name], cost=name in costs))
                for row_labels, scored in zip(kept, scores, strict=True)
            ]
        )
        for name in (scores[0] if scores else ())
    }


def _agree(verdicts: Iterable[tuple[Label, Label]]) -> Estimate:
    same = [a == b for a, b in verdicts if a is not None and b is not None]
    return share(sum(same), len(same))
