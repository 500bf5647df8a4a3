"""How fast a machine is, measured in a moment, so that a table's time can be told before it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from trimtab.engines.local import LocalEngine
from trimtab.engines.types import Request, Sampling

READ_TOKENS = 512
TRAINED = 4.0
"""A token trained on with LoRA (forward, and a backward pass without gradients of the weights),
beside one that is read: a first guess, which the machine's cores and caches change."""
WORDS = (
    "The harbour was quiet in the morning and the boats came back one by one with what they had "
    "found. "
)


@dataclass(frozen=True)
class Rates:
    """Seconds of what most of the time goes into, for a model.

    Attributes:
        read: per token of a long text.
        first: per pass of the weights.
        each: per row of one token in a pass.
    """

    read: float
    first: float
    each: float

    @classmethod
    def measured(cls, engine: LocalEngine) -> Rates:
        """By an engine that answers a few requests of ordinary text."""
        text = WORDS * (READ_TOKENS // 20)
        reading = _fastest(lambda: _answer(engine, text, 1, 1))
        length = len(engine.base.prompt_ids(text))
        one, many = (_per_step(engine, rows) for rows in (1, 16))
        each = max((many - one) / 15, 1e-6)
        return cls(reading / length, max(one - each, 1e-6), each)

    def training(self, tokens: float) -> float:
        """Seconds of a training that sees so many tokens."""
        return TRAINED * self.read * tokens

    def decoding(self, passes: float, tokens: float) -> float:
        """Seconds of so many passes that so many tokens go through."""
        return self.first * passes + self.each * tokens


def _per_step(engine: LocalEngine, rows: int) -> float:
    short, long = (_fastest(lambda n=n: _answer(engine, WORDS, n, rows)) for n in (2, 10))  # type: ignore[misc]
    return max(long - short, 1e-6) / 8


def _fastest(run: Callable[[], None]) -> float:
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _answer(engine: LocalEngine, text: str, tokens: int, rows: int) -> None:
    sampling = Sampling(max_new_tokens=tokens, temperature=0, ignore_eos=True)
    requests = [
        Request(f"{i} {time.perf_counter()} {text}", None, 0.0, sampling) for i in range(rows)
    ]
    engine.generate(requests, batch_size=rows)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
