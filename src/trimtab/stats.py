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
    """A share of n trials with its Wilson score interval (ties may count one half)."""
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
    data = np.asarray(values, dtype=float)
    if data.size == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    picks = np.random.default_rng(seed).integers(data.size, size=(resamples, data.size))
    low, high = np.quantile(data[picks].mean(axis=1), [0.025, 0.975])
    return Estimate(float(data.mean()), float(low), float(high), int(data.size))


def ranked_right(gaps: Iterable[float]) -> float:
    """How many pairs are ranked right, by how far the better side's reward is ahead.

    A tie counts one half: who cannot tell two sides apart is right as often as a coin. NaN if any
    gap is NaN.
    """
    return sum(math.nan if gap != gap else 1.0 if gap > 0 else 0.5 * (gap == 0) for gap in gaps)
