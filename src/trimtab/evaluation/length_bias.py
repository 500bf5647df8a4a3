"""Whether rewards are lengths in disguise: their correlation, and pairs that are matched in length.

Lengths are characters, so that the same pairs are matched and the same lengths compared whatever
tokenizer a reward model has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.evaluation.subsets import Floats, Mask
from trimtab.stats import Estimate

FEWEST_PROMPTS = 10
"""With fewer an interval over prompts means nothing."""


@dataclass(frozen=True)
class Correlation:
    """How rewards go with lengths, with 95 % bootstrap percentile intervals over prompts.

    n is the number of answers, or of pairs. None with fewer than ten prompts, and where rewards or
    lengths do not vary.

    Attributes:
        pearson: of the values.
        spearman: of their ranks.
    """

    pearson: Estimate | None
    spearman: Estimate | None


@dataclass(frozen=True)
class LengthBias:
    """How one kind of reward goes with the length of the answer in characters.

    Attributes:
        answers: over both answers of every pair.
        differences: within pairs: the better answer's reward less the worse one's, against the same
            difference in length.
    """

    answers: Correlation
    differences: Correlation


def matched(lengths: NDArray[np.int64], within: float) -> Mask:
    """The pairs whose two lengths differ by at most a share of the longer one.

    Args:
        lengths: of the better and of the worse answers [2, N].
        within: the share, in [0, 1].

    Returns:
        [N] truth values.
    """
    gap = np.abs(lengths[0] - lengths[1])
    # A hair more, so that 100 against 90 is within .1 whatever the product rounds to.
    mask: Mask = gap <= within * lengths.max(axis=0) * (1 + 1e-12)
    return mask


def length_bias(
    rewards: Floats, lengths: NDArray[np.int64], prompts: NDArray[np.int64]
) -> LengthBias:
    """How rewards go with lengths.

    Args:
        rewards: of the better and of the worse answers [2, N].
        lengths: theirs [2, N].
        prompts: the number of each pair's prompt, from 0 [N].
    """
    lengths_2N = lengths.astype(float)
    gaps = rewards[0] - rewards[1], lengths_2N[0] - lengths_2N[1]
    return LengthBias(
        answers=correlation(rewards, lengths_2N, prompts),
        differences=correlation(gaps[0][None], gaps[1][None], prompts),
    )


def correlation(
    x: Floats, y: Floats, prompts: NDArray[np.int64], *, seed: int = 0, resamples: int = 1000
) -> Correlation:
    """The correlation of two quantities, with intervals over prompts.

    Args:
        x: [S, N] values, S of each pair.
        y: [S, N] values.
        prompts: the number of each pair's prompt, from 0 [N]; those of one are drawn together.
        seed: of the resamples.
        resamples: how many.
    """
    if len(np.unique(prompts)) < FEWEST_PROMPTS:
        return Correlation(None, None)
    drawn = _Clusters(prompts)

    def estimate(statistic: Callable[[Floats, Floats], float]) -> Estimate | None:
        from scipy.stats import bootstrap

        def of(clusters: NDArray[np.int64]) -> float:
            pairs = drawn.members(clusters)
            return statistic(x[:, pairs].ravel(), y[:, pairs].ravel())

        value = of(drawn.all)
        if not np.isfinite(value):
            return None
        found = bootstrap(
            (drawn.all,),
            of,
            n_resamples=resamples,
            method="percentile",
            vectorized=False,
            rng=seed,
        ).confidence_interval
        if not (np.isfinite(found.low) and np.isfinite(found.high)):  # one value makes it all
            return None
        return Estimate(value, float(found.low), float(found.high), x.size)

    return Correlation(estimate(_pearson), estimate(_spearman))


class _Clusters:
    """Which pairs belong to each prompt."""

    def __init__(self, prompts: NDArray[np.int64]) -> None:
        self._order = np.argsort(prompts, kind="stable")
        self._counts = np.unique(prompts, return_counts=True)[1]
        self._starts = self._counts.cumsum() - self._counts
        self.all = np.arange(len(self._counts))

    def members(self, clusters: NDArray[np.int64]) -> NDArray[np.int64]:
        """The pairs of some prompts, those of one that comes twice twice."""
        counts = self._counts[clusters]
        before = counts.cumsum() - counts
        places = np.arange(counts.sum()) + np.repeat(self._starts[clusters] - before, counts)
        members: NDArray[np.int64] = self._order[places]
        return members


def _pearson(x: Floats, y: Floats) -> float:
    """NaN where either does not vary, or by no more than rounding.

    scipy's has a p-value as well, which takes longer than the rest of a resample.
    """
    if any(np.ptp(values) <= 1e-12 * np.abs(values).max() for values in (x, y)):
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _spearman(x: Floats, y: Floats) -> float:
    """Pearson's correlation of the ranks; ties have the mean of theirs."""
    from scipy.stats import rankdata

    return _pearson(rankdata(x), rankdata(y))
