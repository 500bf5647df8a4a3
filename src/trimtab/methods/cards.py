"""CARDS: segments between uncertain tokens, accepted by their reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trimtab.errors import ConfigError
from trimtab.methods.protocol import (
    COUNT,
    EMPTY,
    NUMBER,
    POSITIVE,
    SHARE,
    Draw,
    Found,
    Method,
    Partial,
    Search,
    Steps,
    Task,
    option,
    rated,
)
from trimtab.methods.rejection import accepts, first_best


@dataclass(frozen=True, kw_only=True)
class Cards(Method):
    """CARDS, cascade reward sampling (Li et al., arXiv 2406.16306, algorithm 1).

    A segment ends before a token whose distribution has an entropy of 3 nats or more. It is
    accepted with probability `min(1, exp((r − τ) / β))`, where τ goes from `r_0` up to r*, in
    proportion to the response's length, and `r_0 = (1 − α) r(x) + α r*`. After so many rejections
    the best of the segments is kept.

    Attributes:
        threshold: r*, for your reward model: 8.5 is the authors' for theirs.
        beta: β, in units of the reward.
        alpha: α, share of r* in the first threshold.
        entropy: nats at which a segment ends.
        shortest: tokens of a segment at least.
        longest: tokens of a segment at most.
        tries: rejections after which the best is kept.
        at_once: segments drawn together; the answer is the same for any.
    """

    name = "cards"
    defaults: ClassVar = {"temperature": 0.7, "top_k": 40}
    released: ClassVar = {"ignore_eos": True}

    threshold: float = option(8.5, NUMBER)
    beta: float = option(0.7, POSITIVE)
    alpha: float = option(0.5, SHARE)
    entropy: float = option(3.0, POSITIVE)
    shortest: int = option(4, COUNT)
    longest: int = option(64, COUNT)
    tries: int = option(20, COUNT)
    at_once: int = option(1, COUNT)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shortest > self.longest:
            raise ConfigError(
                f"cards's shortest is {self.shortest}, its longest {self.longest}",
                "a segment cannot be longer than it may",
            )

    def answer(self, task: Task) -> Search:
        """As `Method.answer`."""
        [first] = yield from rated(task, [EMPTY])
        start = (1 - self.alpha) * first + self.alpha * self.threshold
        response, reward, drawn = EMPTY, first, 0
        while not response.ended:
            response, reward, tries = yield from self._segment(task, response, start, drawn)
            drawn += tries
        return Found(response, reward, {"segments_drawn": drawn})

    def _segment(
        self, task: Task, response: Partial, start: float, drawn: int
    ) -> Steps[tuple[Partial, float, int]]:
        """A response with one segment more, its reward, and how many were tried."""
        longer: list[Partial] = []
        rewards: list[float] = []
        while len(longer) <= self.tries:
            more = range(len(longer), min(len(longer) + self.at_once, self.tries + 1))
            longer += yield [self._draw(response, drawn + i) for i in more]
            rewards += yield from rated(task, longer[more.start :])
            for i in more:
                threshold = self._threshold(start, len(longer[i].ids) / task.most)
                if task.chance(drawn + i) < accepts(rewards[i], threshold, self.beta):
                    return longer[i], rewards[i], i + 1
        best = first_best(rewards)
        return longer[best], rewards[best], len(longer)

    def _threshold(self, start: float, share: float) -> float:
        """τ for a response of some share of its longest."""
        return min(start + share * (self.threshold - start), self.threshold)

    def _draw(self, response: Partial, number: int) -> Draw:
        return Draw(
            response, self.longest, number=number, entropy=self.entropy, least=self.shortest
        )
