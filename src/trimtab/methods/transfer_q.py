"""Transfer-Q: at every token the likeliest few, each judged by how an aligned model goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trimtab.methods.protocol import (
    COUNT,
    NUMBER,
    Draw,
    Method,
    Partial,
    Search,
    Steps,
    Task,
    option,
    rated,
)
from trimtab.methods.stepwise import stepwise


@dataclass(frozen=True, kw_only=True)
class TransferQ(Method):
    """Transfer Q* (Chakraborty et al., arXiv 2405.20495).

    Of the k likeliest tokens of the base each is completed greedily, by the model as the engine's
    guides or policies steer it (the *baseline policy*; without any, by the base itself, which is
    then the token-wise value of the base). Direct transfer, where that policy is aligned to the
    same reward: `argmax log π_b(v) + w · r(completed)`. Indirect transfer, where it is aligned to
    another one, whose reward model is the baseline: `exp((r − r_baseline) / 2) · r` in place of r,
    as the released code has it.

    Attributes:
        weight: w.
        candidates: k.
        rollout: tokens of a completion; by default 20, and 5 for indirect transfer.
    """

    name = "transfer-q"
    defaults: ClassVar = {"temperature": 0.0}
    released: ClassVar = {"ignore_eos": True}
    takes_baseline = True

    weight: float = option(1.0, NUMBER)
    candidates: int = option(10, COUNT)
    rollout: int | None = option(None, COUNT)

    def answer(self, task: Task) -> Search:
        """As `Method.answer`."""
        return stepwise(task, self.candidates, self.weight, self._judged, steered=False)

    def _judged(self, task: Task, responses: Sequence[Partial]) -> Steps[list[float]]:
        """The reward of each response as the baseline policy goes on with it."""
        length = self.rollout or (5 if task.baseline else 20)
        whole = yield from completed(responses, length)
        rewards = yield from rated(task, whole)
        if not task.baseline:
            return rewards
        others = yield from rated(task, whole, "baseline")
        return [transferred(r, other) for r, other in zip(rewards, others, strict=True)]


def completed(responses: Sequence[Partial], length: int) -> Steps[list[Partial]]:
    """Responses that go on for some tokens, unless they are over."""
    open_ones = [response for response in responses if not response.ended]
    longer = iter((yield [Draw(one, length, greedy=True) for one in open_ones]))
    return [one if one.ended else next(longer) for one in responses]


_MOST = 100.0  # of an exponent; beyond use, and the product stays finite


def transferred(reward: float, baseline: float) -> float:
    """The reward under an aligned policy's baseline reward, for indirect transfer."""
    return math.exp(min(0.5 * (reward - baseline), _MOST)) * reward
