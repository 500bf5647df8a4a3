"""Token by token: of the likeliest few, the one that log-prob and reward together pick."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trimtab.methods.protocol import (
    EMPTY,
    Found,
    Next,
    Partial,
    Search,
    Steps,
    Task,
    children,
    rated,
)

Judging = Callable[[Task, Sequence[Partial]], Steps[list[float]]]
"""Finds what responses with one token more are worth."""


def stepwise(
    task: Task,
    candidates: int,
    weight: float,
    judging: Judging = rated,
    *,
    steered: bool = True,
) -> Search:
    """`score(v) = log π_b(v) + w · r(x, y, v)` of the k likeliest tokens; the request's temperature
    says how one is picked.

    Args:
        task: the prompt.
        candidates: k.
        weight: w.
        judging: r.
        steered: whether the engine's guides have a part in π_b.
    """
    response, reward = EMPTY, None
    while not response.ended:
        [successors] = yield [Next(response, steered)]
        some = children(task, response, successors, candidates)
        rewards = yield from judging(task, [child for child, _ in some])
        scores = [logp + weight * r for (_, logp), r in zip(some, rewards, strict=True)]
        chosen = task.pick(scores, response)
        response, reward = some[chosen][0], rewards[chosen]
    return Found(response, reward)
