"""Rejection sampling: whole responses, accepted by their reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.methods.protocol import (
    COUNT,
    NUMBER,
    POSITIVE,
    Draw,
    Found,
    Method,
    Partial,
    Search,
    Task,
    option,
    rated,
)


@dataclass(frozen=True, kw_only=True)
class Rejection(Method):
    """Rejection sampling (the item-level baseline of CARDS, arXiv 2406.16306; RSO, 2309.06657).

    A sample of the base is accepted with probability `min(1, exp((r − threshold) / beta))`. Where
    no reward is above the threshold, accepted answers are exact samples of the optimum
    `π_b(y|x) · exp(r(x, y) / β) / Z`. After so many tries the best of them is taken, which is no
    such sample; `details["accepted"]` says so.

    Attributes:
        beta: β, in units of the reward.
        threshold: a reward that no answer exceeds, for exact samples; the CARDS authors' 8.5 is for
            their reward model: choose it for yours.
        tries: samples at most.
        at_once: samples drawn together; more passes of few rows become fewer of more rows, and the
            answer is the same.
    """

    name = "rejection"

    beta: float = option(0.7, POSITIVE)
    threshold: float = option(8.5, NUMBER)
    tries: int = option(20, COUNT)
    at_once: int = option(4, COUNT)

    def answer(self, task: Task) -> Search:
        """As `Method.answer`."""
        seen: list[float] = []
        responses: list[Partial] = []
        while len(responses) < self.tries:
            more = range(len(responses), min(len(responses) + self.at_once, self.tries))
            responses += yield [Draw(number=i) for i in more]
            seen += yield from rated(task, responses[more.start :])
            for i in more:
                if task.chance(i) < accepts(seen[i], self.threshold, self.beta):
                    return Found(responses[i], seen[i], {"accepted": True, "tries": i + 1})
        best = first_best(seen)
        return Found(responses[best], seen[best], {"accepted": False, "tries": self.tries})


def accepts(reward: float, threshold: float, beta: float) -> float:
    """The probability that something of this reward is accepted."""
    return 1.0 if reward >= threshold else math.exp((reward - threshold) / beta)


def first_best(rewards: Sequence[float]) -> int:
    """Where the highest is, the first of several."""
    return max(range(len(rewards)), key=rewards.__getitem__)
