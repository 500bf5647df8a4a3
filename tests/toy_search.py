"""A toy language in which every response can be counted: searches on it have closed forms.

Three tokens, responses of exactly three: 27. The base's distribution after every beginning and the
reward of every beginning are tables of random numbers.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.sampling import nth_seed
from trimtab.methods.protocol import (
    Ask,
    Draw,
    Found,
    Method,
    Next,
    Partial,
    Rate,
    Successors,
    Task,
)

TOKENS, LENGTH = 3, 3
WHOLE = [*itertools.product(range(TOKENS), repeat=LENGTH)]
Ids = tuple[int, ...]


@lru_cache
def _tables(table: int) -> tuple[dict[Ids, Tensor], dict[Ids, float], dict[Ids, Tensor]]:
    """Of every beginning: log-probs of the next token, reward, and a guide's rewards of it."""
    numbers = random.Random(table)

    def three() -> Tensor:
        return torch.tensor([numbers.gauss(0, 1) for _ in range(TOKENS)])

    lengths = range(LENGTH + 1)
    beginnings = [b for n in lengths for b in itertools.product(range(TOKENS), repeat=n)]
    logp = {b: three().log_softmax(-1) for b in beginnings}
    rewards = {b: numbers.gauss(0, 1) for b in beginnings}
    return logp, rewards, {b: three() for b in beginnings}


class Toy(Task):
    """One prompt.

    Args:
        seed: of the request.
        table: of the tables.
        temperature: of what is drawn.
        by_guides: a guide gives every token a reward, and scores.
        reward: in place of the table's.
    """

    most = LENGTH
    baseline = False

    def __init__(
        self,
        seed: int = 0,
        table: int = 0,
        temperature: float = 1.0,
        *,
        by_guides: bool = False,
        reward: Callable[[Ids], float] | None = None,
    ) -> None:
        self.logp, rewards, self.gains = _tables(table)
        self.reward = reward or rewards.__getitem__
        self.seed, self.temperature, self.by_guides = seed, temperature, by_guides
        self.asked: Counter[str] = Counter()

    def base(self, ids: Ids) -> float:
        """The base's probability of a beginning."""
        return math.exp(sum(float(self.logp[ids[:t]][token]) for t, token in enumerate(ids)))

    def gain(self, ids: Ids) -> float:
        """The guide's reward of a beginning."""
        return sum(float(self.gains[ids[:t]][token]) for t, token in enumerate(ids))

    def then(self, partial: Partial, token: int, reward: float = 0.0) -> Partial:
        ids = (*partial.ids, token)
        return Partial(ids, len(ids) == LENGTH, partial.reward + reward)

    def pick(self, scores: Tensor | Sequence[float], partial: Partial) -> int:
        return self._choose(torch.as_tensor(scores), self.seed, len(partial.ids), self.temperature)

    def chance(self, number: int) -> float:
        return fusion.uniform(nth_seed(self.seed, 2**40), number)

    def _choose(self, scores: Tensor, seed: int, place: int, temperature: float) -> int:
        logp = (scores / (temperature or 1.0)).log_softmax(-1)[None]
        uniform = torch.tensor([fusion.uniform(seed, place)], dtype=torch.float64)
        return int(fusion.choose(logp, torch.tensor([temperature]), uniform))

    def reply(self, ask: Ask) -> Any:
        """What an ask gets, by the tables alone."""
        self.asked[type(ask).__name__] += 1
        if isinstance(ask, Rate):
            return [self.reward(one.ids) for one in ask.responses]
        if isinstance(ask, Next):
            gains = self.gains[ask.after.ids] if self.by_guides else None
            return Successors(self.logp[ask.after.ids], gains)
        return self._drawn(ask)

    def _drawn(self, ask: Draw) -> Partial:
        partial, temperature = ask.after, 0.0 if ask.greedy else self.temperature
        for new in range(ask.tokens or LENGTH):
            logp = self.logp[partial.ids]
            if partial.ended or (new >= ask.least and fusion.entropy(logp) >= ask.entropy):
                break
            seed = nth_seed(self.seed, ask.number)
            token = self._choose(logp, seed, len(partial.ids), temperature)
            gain = float(self.gains[partial.ids][token]) if self.by_guides else 0.0
            partial = self.then(partial, token, gain)
        return partial


def play(method: Method, task: Toy) -> Found:
    """A method's answer."""
    steps = method.answer(task)
    asks = next(steps)
    while True:
        try:
            asks = steps.send([task.reply(ask) for ask in asks])
        except StopIteration as end:
            found: Found = end.value
            return found


def answers(method: Method, count: int, **options: Any) -> Counter[Ids]:
    """How often each response was the answer, over so many seeds."""
    return Counter(play(method, Toy(seed, **options)).response.ids for seed in range(count))


def normalised(weights: Iterable[tuple[Ids, float]]) -> dict[Ids, float]:
    """A distribution from what is in proportion to it."""
    known = dict(weights)
    total = sum(known.values())
    return {ids: weight / total for ids, weight in known.items()}


def excess(counts: Counter[Ids], expected: dict[Ids, float]) -> float:
    """Pearson's χ² over its 1 − 1e-9 quantile: above 1 once in a thousand million tests.

    Cells of fewer than five expected counts are one cell; a response that cannot come makes it
    infinite. The quantile is Wilson and Hilferty's, within a percent for ten cells and more.
    """
    total = sum(counts.values())
    if any(expected.get(ids, 0.0) <= 0 for ids in counts):
        return math.inf
    cells = [(counts[ids], total * p) for ids, p in expected.items() if total * p >= 5]
    rare = [(counts[ids], total * p) for ids, p in expected.items() if total * p < 5]
    if sum(p for _, p in rare) > 0:
        cells.append((sum(n for n, _ in rare), max(sum(p for _, p in rare), 1e-9)))
    statistic = sum((n - e) ** 2 / e for n, e in cells if e >= 1)
    k = max(sum(e >= 1 for _, e in cells) - 1, 1)
    quantile = k * (1 - 2 / (9 * k) + 5.998 * math.sqrt(2 / (9 * k))) ** 3
    return statistic / quantile
