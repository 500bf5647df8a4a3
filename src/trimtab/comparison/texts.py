"""What can be said of one side's answers without a judge: lengths, variety, how many were cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from trimtab.comparison.sides import Side
from trimtab.evaluation.texts import distinct
from trimtab.stats import Estimate, hierarchical

Array = NDArray[np.float64]

MOST = 50  # answers of a seed that self-BLEU looks at: its time grows with their square


def side_facts(
    side: Side, prompt_of: Sequence[int], *, seed: int, resamples: int
) -> dict[str, Estimate | None]:
    """Means over a side's answers, with intervals over training seeds and prompts.

    Args:
        side: its answers.
        prompt_of: slot -> number of its prompt.
        seed: of the resampling.
        resamples: of the bootstrap.

    Returns:
        `characters` and `words` of an answer; `distinct_1` to `distinct_3`, the share of different
        n-grams within an answer; `self_bleu`, None of a single answer; `cut_off`, the share that
        the token limit ended, None where the rows do not say.
    """

    def over(values: Sequence[Sequence[float]], *, shares: bool = True) -> Estimate:
        cells = by_prompt(np.asarray(values, dtype=float), prompt_of)
        return hierarchical(cells, seed=seed, resamples=resamples, shares=shares)

    def each(of: Callable[[str], float]) -> list[list[float]]:
        return [[of(answer.response) for answer in answers] for answers in side.answers]

    reasons = [[answer.finish_reason for answer in own] for own in side.answers]
    told = all(reason is not None for own in reasons for reason in own)
    self_bleu = None
    if len(side.answers[0]) > 1:
        first = [[answer.response for answer in own[:MOST]] for own in side.answers]
        bleu = by_prompt(np.array([_self_bleus(texts) for texts in first]), prompt_of[:MOST])
        self_bleu = hierarchical(bleu, seed=seed, resamples=resamples, shares=True)
    return {
        "characters": over(each(len), shares=False),
        "words": over(each(lambda text: len(text.split())), shares=False),
        **{f"distinct_{n}": over(each(partial(distinct, n=n))) for n in (1, 2, 3)},
        "self_bleu": self_bleu,
        "cut_off": over([[float(r == "length") for r in own] for own in reasons]) if told else None,
    }


def by_prompt(values: Array, prompt_of: Sequence[int]) -> Array:
    """Mean over a prompt's answers, [..., prompts], of values [..., slots]; NaN does not count."""
    slots = np.asarray(prompt_of)
    there = ~np.isnan(values)
    means = np.full((*values.shape[:-1], int(slots.max()) + 1), np.nan)
    for prompt in range(means.shape[-1]):
        own = slots == prompt
        count = there[..., own].sum(axis=-1)
        total = np.where(there[..., own], values[..., own], 0.0).sum(axis=-1)
        np.divide(total, count, out=means[..., prompt], where=count > 0)
    return means


def _self_bleus(texts: Sequence[str]) -> list[float]:
    """BLEU of each text with all others as its references (Zhu et al. 2018), in [0, 1].

    1 where another text is the same. Higher orders than a text has words do not count.
    """
    from sacrebleu.metrics import BLEU

    bleu = BLEU(effective_order=True)
    return [
        bleu.sentence_score(text, [*texts[:i], *texts[i + 1 :]]).score / 100
        for i, text in enumerate(texts)
    ]
