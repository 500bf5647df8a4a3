"""VAS: the base's likeliest tokens, tilted by a value model."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.methods.protocol import (
    COUNT,
    EMPTY,
    NUMBER,
    Found,
    Method,
    Next,
    Search,
    Task,
    children,
    option,
    rated,
)


@dataclass(frozen=True, kw_only=True)
class Vas(Method):
    """Value augmented sampling (Han et al., arXiv 2405.06639).

    `log π(v) = log π_b(v) + β (V(x, y, v) − mean V) − log Z`: V for the k likeliest tokens, their
    plain mean for the others. V is a value model (`trimtab train --method value`), or any reward
    model that may be asked about unfinished responses.

    Attributes:
        weight: β, one over a unit of the value.
        candidates: k.
    """

    name = "vas"

    weight: float = option(1.0, NUMBER)
    candidates: int = option(20, COUNT)

    def answer(self, task: Task) -> Search:
        """As `Method.answer`."""
        response, value = EMPTY, None
        while not response.ended:
            [successors] = yield [Next(response)]
            some = children(task, response, successors, self.candidates)
            values = yield from rated(task, [child for child, _ in some])
            mean = sum(values) / len(values)
            logp_V = successors.logp_V.clone()
            for (child, _), own in zip(some, values, strict=True):
                logp_V[child.ids[-1]] += self.weight * (own - mean)
            token = task.pick(logp_V, response)
            known = {child.ids[-1]: own for (child, _), own in zip(some, values, strict=True)}
            response, value = task.then(response, token), known.get(token, mean)
        return Found(response, value)
