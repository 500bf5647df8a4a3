"""How fast a machine is, measured in a moment, so that a table's time can be told before it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from trimtab.data.pairs import Pair
from trimtab.engines.local import LocalEngine
from trimtab.models.messages import Prompt

READ, ROWS = 8, 16
"""Responses that are read, and answers that are written together, to see how long that takes."""
TRAINED = 4.0
"""A token trained on with LoRA (forward, and a backward pass without gradients of the weights),
beside one that is read: a first guess, which the machine's cores and caches change."""


@dataclass(frozen=True)
class Rates:
    """Seconds of what most of the time goes into, for a model.

    Attributes:
        read: per token of a text.
        first: per pass of the weights.
        each: per row of one token in a pass.
    """

    read: float
    first: float
    each: float

    @classmethod
    def measured(cls, engine: LocalEngine, pairs: Sequence[Pair]) -> Rates:
        """By an engine that reads and answers a few of the pairs that a table is made of."""
        prompts = [pair.prompt for pair in pairs[:READ]]
        texts = [pair.chosen for pair in pairs[:READ]]
        lengths = [len(engine.base.prompt_ids(prompt)) for prompt in prompts]
        found = engine.log_likelihoods(prompts, texts, strength=0.0)  # warms up, too
        tokens = sum(lengths) + sum(len(one.token_ids) for one in found)
        reading = _fastest(lambda: engine.log_likelihoods(prompts, texts, strength=0.0))
        one, many = (_per_step(engine, prompts[:1] * rows) for rows in (1, ROWS))
        each = max((many - one) / (ROWS - 1), 1e-6)
        return cls(reading / tokens, max(one - each, 1e-6), each)

    def training(self, tokens: float) -> float:
        """Seconds of a training that sees so many tokens."""
        return TRAINED * self.read * tokens

    def decoding(self, passes: float, tokens: float) -> float:
        """Seconds of so many passes that so many tokens go through."""
        return self.first * passes + self.each * tokens


def _per_step(engine: LocalEngine, prompts: Sequence[Prompt]) -> float:
    """Seconds of one pass that a token of each prompt's answer goes through."""
    short, long = (_fastest(partial(_answer, engine, prompts, tokens)) for tokens in (2, 10))
    return max(long - short, 1e-6) / 8


def _answer(engine: LocalEngine, prompts: Sequence[Prompt], tokens: int) -> None:
    engine.generate(
        prompts,
        strength=0.0,
        max_new_tokens=tokens,
        temperature=0.0,
        ignore_eos=True,
        batch_size=len(prompts),
    )


def _fastest(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
