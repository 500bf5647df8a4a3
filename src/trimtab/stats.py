"""Shares and means with their intervals: every one that Trimtab prints carries one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

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


def share_in_groups(successes: float, n: int, groups: int) -> Estimate:
    """A share of n trials, with an interval as wide as if each of the groups held but one.

    For trials that are not independent, such as pairs that share their answers to one prompt.
    """
    if n == 0:
        return share(0, 0)
    counted = share(successes / n * groups, groups)
    return Estimate(successes / n, counted.low, counted.high, n)


def mean_of_shares(shares: Sequence[Estimate]) -> Estimate:
    """The unweighted mean of shares that rest on different observations.

    Its interval is MOVER's (Zou and Donner 2008, doi:10.1002/sim.3095): the distances of the
    shares' own bounds from them, squared and summed. n is of all observations.
    """
    count = len(shares)
    value = math.fsum(each.value for each in shares) / count
    below = sqrt(math.fsum((each.value - each.low) ** 2 for each in shares)) / count
    above = sqrt(math.fsum((each.high - each.value) ** 2 for each in shares)) / count
    return Estimate(value, value - below, value + above, sum(each.n for each in shares))


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
    return sum(map(ranked, gaps))


def ranked(gap: float) -> float:
    """How right one pair is ranked: 1, 0, or one half at a tie; NaN for NaN."""
    return math.nan if gap != gap else 1.0 if gap > 0 else 0.5 * (gap == 0)
