"""Answers to one prompt and how each was judged: what every layout translates into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from trimtab.data.sources import Row

Scores = Sequence[float | None]


@dataclass(frozen=True)
class Judged:
    """Answers to one prompt and their scores, of which more is better.

    Attributes:
        prompt: text or chat; None where the answers are whole chats.
        answers: texts or chats.
        scores: objective -> one score per answer, None where it was not judged. "" is the
            objective of data that name none.
        places: of each answer, where each has a row of its own.
    """

    prompt: Any
    answers: Sequence[Any]
    scores: Mapping[str, Scores]
    places: Sequence[str] = ()

    def with_answers_of(self, other: Judged) -> Judged:
        """These answers and, after them, those of another row with the same prompt."""
        return replace(
            self,
            answers=[*self.answers, *other.answers],
            scores={
                name: [
                    *self.scores.get(name, [None] * len(self.answers)),
                    *other.scores.get(name, [None] * len(other.answers)),
                ]
                for name in dict.fromkeys([*self.scores, *other.scores])
            },
            places=[*self.places, *other.places],
        )


def rows_of(judged: Judged, place: str, limit: int = 0) -> Iterator[tuple[str, Row]]:
    """Every pair of answers as a row of `prompt`, `chosen`, `rejected`, with its place.

    Where the data name no objective the better answer is `chosen`; otherwise `scores` say which is
    better on what, and the order is that of the answers. A tie stays one, for whoever reads it.

    Args:
        judged: the answers.
        place: of the row; of a pair among several, their numbers, from 1, follow it.
        limit: that many pairs at most, 0 for all (`_drawn`).
    """
    pairs = list(combinations(range(len(judged.answers)), 2))
    if limit:
        pairs = _drawn(judged, pairs, limit)
    for i, j in pairs:
        where = f"{place} ({i + 1}, {j + 1})" if len(judged.answers) > 2 else place
        if judged.places:
            where = f"{judged.places[i]}+{judged.places[j].rpartition(':')[2]}"
        yield where, _row(judged, i, j)


def _row(judged: Judged, i: int, j: int) -> Row:
    scores = {name: _both(each, i, j) for name, each in judged.scores.items()}
    only = scores.get("") if list(scores) == [""] else None
    if only and only[1] > only[0]:
        i, j = j, i
    row = {"chosen": judged.answers[i], "rejected": judged.answers[j]}
    if judged.prompt is not None:
        row["prompt"] = judged.prompt
    if only is None or only[0] == only[1]:
        row["scores"] = scores
    return row


def _both(scores: Scores, i: int, j: int) -> list[float] | None:
    first, second = scores[i], scores[j]
    return None if first is None or second is None else [first, second]


def _drawn(judged: Judged, pairs: list[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """So many of the pairs: those that are decided on most objectives, then by a hash.

    The hash is of their texts, so that the same pairs are drawn whatever else is in the data.
    """

    def order(pair: tuple[int, int]) -> tuple[int, str]:
        both = [_both(scores, *pair) for scores in judged.scores.values()]
        decided = sum(sides is not None and sides[0] != sides[1] for sides in both)
        texts = json.dumps([judged.prompt, *(judged.answers[i] for i in pair)], default=str)
        return -decided, hashlib.sha1(texts.encode(errors="replace")).hexdigest()

    return sorted(sorted(pairs, key=order)[:limit])
