"""ARGS: at every token the likeliest few, by log-prob and reward together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trimtab.methods.protocol import COUNT, NUMBER, Method, Search, Task, option
from trimtab.methods.stepwise import stepwise


@dataclass(frozen=True, kw_only=True)
class Args(Method):
    """ARGS, alignment as reward-guided search (Khanov et al., arXiv 2402.01694, algorithm 1).

    Of the k likeliest tokens v: `score(v) = log π_b(v) + w · r(x, y, v)`. At temperature 0
    (ARGS-greedy, the default) the best one comes; else one is drawn from `softmax(score / T)`
    (ARGS-stochastic; T .7 in the paper). The reward model reads unfinished responses, for which it
    was not trained.

    Attributes:
        weight: w. 1.5 in the paper, 1 in the released code's example.
        candidates: k.
    """

    name = "args"
    defaults: ClassVar = {"temperature": 0.0}
    released: ClassVar = {"weight": 1.0, "ignore_eos": True}

    weight: float = option(1.5, NUMBER)
    candidates: int = option(10, COUNT)

    def answer(self, task: Task) -> Search:
        """As `Method.answer`."""
        return stepwise(task, self.candidates, self.weight)
