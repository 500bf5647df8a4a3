"""How many tokens to draft: what is accepted, what a pass costs, and what pays.

What is drafted never changes a token, so all of this may be learned while decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LONGEST = 8
"""Tokens drafted at most."""
_MEMORY, _PRIOR_TRIED = 0.9, 2.0
_FORGETS = 0.998
"""Per round: where nothing is drafted any more, the text gets another chance now and then."""


@dataclass
class Acceptance:
    """How often drafts of one kind are kept; an older round counts for less.

    Attributes:
        kept: drafts that were, by weight.
        tried: drafts that were looked at, by weight.
    """

    kept: float
    tried: float = _PRIOR_TRIED

    @property
    def rate(self) -> float:
        """Estimated probability that the next draft is kept."""
        return min(self.kept / self.tried, 0.999)

    def learn(self, kept: int, drafted: int) -> None:
        """Take in one round; a refusal ends the evidence."""
        self.kept = _MEMORY * self.kept + kept
        self.tried = _MEMORY * self.tried + min(kept + 1, drafted)

    def forget(self, prior: float) -> None:
        """Come a little nearer to what was thought at first."""
        self.kept = _FORGETS * self.kept + (1 - _FORGETS) * prior * self.tried


FIRST = (0.7, 0.1, 0.3, 0.6)
"""Kind of draft -> its rate before anything is known: from a model; after 1, 2 or 3 tokens that
occurred before."""


@dataclass
class DraftRates:
    """What the drafts of one request, or of all of an engine, come to, by their kind."""

    kinds: list[Acceptance] = field(
        default_factory=lambda: [Acceptance(rate * _PRIOR_TRIED) for rate in FIRST]
    )

    def new_row(self) -> DraftRates:
        """Of a request that begins where the others are."""
        return DraftRates([Acceptance(a.rate * _PRIOR_TRIED) for a in self.kinds])

    def learn(self, kind: int, kept: int, drafted: int) -> None:
        """Take in one round."""
        if drafted:
            self.kinds[kind].learn(kept, drafted)
        for acceptance, prior in zip(self.kinds, FIRST, strict=True):
            acceptance.forget(prior)


class PassCosts:
    """Seconds that a pass takes with so many tokens: a fixed part and one per token, learned.

    Args:
        ratio: a token's share of the fixed part, as long as all passes had equally many tokens.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._w = self._m = self._mm = self._s = self._sm = 0.0

    def learn(self, tokens: int, seconds: float) -> None:
        """Take in one pass; older ones count for less."""
        kept = 0.98
        self._w = kept * self._w + 1
        self._m = kept * self._m + tokens
        self._mm = kept * self._mm + tokens**2
        self._s = kept * self._s + seconds
        self._sm = kept * self._sm + seconds * tokens

    @property
    def line(self) -> tuple[float, float]:
        """(fixed, per token), by least squares that lean to the ratio; 1 and the ratio at first."""
        if not self._w:
            return 1.0, self._ratio
        lean, ratio = 0.02 * self._mm, self._ratio
        a, b, d = self._w + lean * ratio**2, self._m - lean * ratio, self._mm + lean
        det = a * d - b * b
        fixed = (d * self._s - b * self._sm) / det
        each = (a * self._sm - b * self._s) / det
        return max(fixed, 1e-9), max(each, 0.1 * ratio * max(fixed, 1e-9))


@dataclass(frozen=True)
class Wish:
    """What could be drafted for one row.

    Attributes:
        rate: that a draft is kept.
        most: drafts that there is room (or a continuation) for.
        streams: rows that each draft adds to a pass.
        least: drafts to make in any case, where there are as many.
    """

    rate: float
    most: int
    streams: int
    least: int = 0


def best_lengths(
    wishes: Sequence[Wish], base_tokens: int, line: tuple[float, float], draft_cost: float = 0.0
) -> list[int]:
    """Drafts per row that give the most tokens a second.

    A further draft pays while what it is expected to bring, over its own cost, is more than what
    the whole pass brings over its cost.

    Args:
        wishes: one per row.
        base_tokens: tokens of a pass without drafts.
        line: (fixed, per token) seconds of a pass.
        draft_cost: seconds of one pass of the model that drafts, for all rows.
    """
    fixed, each = line
    bare = fixed + each * base_tokens
    lengths = [0] * len(wishes)
    tokens_a_second = len(wishes) / bare
    for _ in range(3):
        lengths = [
            _length(wish, tokens_a_second * (each * wish.streams + draft_cost / len(wishes)))
            for wish in wishes
        ]
        gained = sum(_expected(w.rate, n) for w, n in zip(wishes, lengths, strict=True))
        cost = bare + each * sum(w.streams * n for w, n in zip(wishes, lengths, strict=True))
        cost += draft_cost * max(lengths, default=0)
        tokens_a_second = max(tokens_a_second, (len(wishes) + gained) / cost)
    return lengths


def _length(wish: Wish, price: float) -> int:
    count, brings = 0, wish.rate
    while count < wish.most and (brings > price or count < wish.least):
        count, brings = count + 1, brings * wish.rate
    return count


def _expected(rate: float, drafts: int) -> float:
    return sum(rate**k for k in range(1, drafts + 1))


@dataclass
class RowDrafts:
    """What one request's drafts come to.

    Attributes:
        rates: by their kind.
        least: drafts to make in any case, where there are as many.
        kind: of the latest draft.
    """

    rates: DraftRates
    least: int = 0
    kind: int = 0
