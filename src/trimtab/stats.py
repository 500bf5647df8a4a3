"""Shares and means with their intervals: every one that Trimtab prints carries one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval and the number of observations it rests on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


def share(successes: float, n: int) -> Estimate:
    """A share of n trials with its Wilson score interval.

    Ties may count one half, which scipy's `binomtest` does not take; over whole counts the two are
    the same.
    """
    if n == 0:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    p = successes / n
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half), n)


def mean(values: Sequence[float], *, seed: int = 0, resamples: int = 2000) -> Estimate:
    """A mean with its bootstrap percentile interval over the observations.

    Pass one value per independent unit: average a prompt's samples first, so that the interval is
    over prompts.
    """
    from scipy.stats import bootstrap

    data = np.asarray(values, dtype=float)
    if data.size < 2 or not np.isfinite(data).all():  # there is nothing to resample
        alone = float(data.mean()) if data.size else float("nan")
        return Estimate(alone, alone, alone, int(data.size))
    result = bootstrap((data,), np.mean, n_resamples=resamples, method="percentile", rng=seed)
    low, high = result.confidence_interval
    return Estimate(float(data.mean()), float(low), float(high), int(data.size))


def ranked_right(gaps: Iterable[float]) -> float:
    """How many pairs are ranked right, by how far the better side's reward is ahead.

    A tie counts one half: who cannot tell two sides apart is right as often as a coin. NaN if any
    gap is NaN.
    """
    return sum(math.nan if gap != gap else 1.0 if gap > 0 else 0.5 * (gap == 0) for gap in gaps)


def hierarchical(
    values: ArrayLike, *, over: int = 1, seed: int = 0, resamples: int = 2000
) -> Estimate:
    """A mean over training seeds and prompts, with the bootstrap percentile interval of both.

    The prompts are the same for every seed (a crossed design), so seeds and prompts are resampled
    apart, each with replacement. Of one seed the interval is over prompts alone: how much another
    seed would differ is not in it.

    Args:
        values: [seeds, ..., prompts]; of a comparison [seeds of one, seeds of the other, prompts].
        over: leading axes that are seeds, each resampled by itself.
        seed: of the resampling.
        resamples: how many.

    Returns:
        The mean; n counts the prompts.
    """
    values = np.asarray(values, dtype=float)
    random = np.random.default_rng(seed)
    sizes = values.shape
    if not (values.size and np.isfinite(values).all()):
        alone = float(values.mean()) if values.size else float("nan")
        return Estimate(alone, alone, alone, sizes[-1])
    means = values.mean(axis=tuple(range(over, values.ndim - 1)))  # [seeds…, prompts]
    found = np.empty(resamples)
    for i in range(resamples):
        drawn = means
        for axis, size in enumerate(means.shape):
            drawn = np.take(drawn, random.integers(size, size=size), axis=axis)
        found[i] = drawn.mean()
    low, high = np.quantile(found, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high), sizes[-1])
