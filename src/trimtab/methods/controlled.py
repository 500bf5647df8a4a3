"""Controlled decoding: a prefix scorer chooses tokens, or blocks of them."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.methods.protocol import (
    COUNT,
    EMPTY,
    NUMBER,
    Draw,
    Found,
    Method,
    Search,
    Task,
    option,
    rated,
)
from trimtab.methods.rejection import first_best
from trimtab.methods.stepwise import stepwise


@dataclass(frozen=True, kw_only=True)
class ControlledDecoding(Method):
    """Controlled decoding, token by token (Mudgal et al., arXiv 2310.17022, eq. 4).

    `π(v) ∝ π_b(v) · exp(λ V(x, y, v))` among the k likeliest tokens; V is a prefix scorer: a value
    model (`trimtab train --method value`), or a reward model that may be asked about unfinished
    responses. The paper has no k (it runs V on the whole vocabulary) and no default λ.

    Attributes:
        weight: λ, one over a unit of the value.
        candidates: k.
    """

    name = "controlled-decoding"

    weight: float = option(1.0, NUMBER)
    candidates: int = option(20, COUNT)

    def answer(self, task: Task) -> Search:
        """As `Method.answer`."""
        return stepwise(task, self.candidates, self.weight)


@dataclass(frozen=True, kw_only=True)
class BlockwiseDecoding(Method):
    """Controlled decoding, block by block (Mudgal et al., arXiv 2310.17022, eq. 9).

    Of K blocks of M sampled tokens the one whose response has the highest V is kept, and so on.
    With M as long as the response this is best-of-K.

    Attributes:
        samples: K.
        block: M, tokens.
    """

    name = "blockwise-decoding"

    samples: int = option(4, COUNT)
    block: int = option(32, COUNT)

    def answer(self, task: Task) -> Search:
        """As `Method.answer`."""
        response, value = EMPTY, None
        while not response.ended:
            longer = yield [Draw(response, self.block, number=i) for i in range(self.samples)]
            values = yield from rated(task, longer)
            best = first_best(values)
            response, value = longer[best], values[best]
        return Found(response, value)
