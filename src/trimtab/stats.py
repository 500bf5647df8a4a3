"""Shares and means with their intervals: every one that Trimtab prints carries one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

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


def hierarchical(
    values: ArrayLike, *, seed: int = 0, resamples: int = 2000, shares: bool = False
) -> Estimate:
    """A mean with its 95 % interval over training seeds and prompts; see `hierarchical_of`.

    Args:
        values: [seeds, prompts], or [seeds of A, seeds of B, prompts] where all seeds meet;
            NaN where one is missing. Average a prompt's samples first.
        seed: of the resampling.
        resamples: of the bootstrap.
        shares: the values are in [0, 1]. So is the interval, and where all values are alike, of
            which no resample can differ, it is Wilson's over prompts.

    Returns:
        The mean of what is there; n counts prompts. NaN where there is nothing.
    """
    cells: Array = np.asarray(values, dtype=float)
    there = ~np.isnan(cells)
    n = int(there.any(axis=tuple(range(cells.ndim - 1))).sum())
    if not n:
        return Estimate(math.nan, 0.0 if shares else math.nan, 1.0 if shares else math.nan, 0)
    known = cells[there]
    if (known == known[0]).all():
        alike = float(known[0])
        return share(alike * n, n) if shares else Estimate(alike, alike, alike, n)
    filled = np.where(there, cells, 0.0)

    def weighted(weights: Array) -> float:
        total = float(weights[there].sum())
        return float((weights * filled).sum()) / total if total else math.nan

    found = hierarchical_of(weighted, cells.shape, seed=seed, resamples=resamples)
    low, high = (max(0.0, found.low), min(1.0, found.high)) if shares else (found.low, found.high)
    return Estimate(found.value, low, high, n)


def hierarchical_of(
    statistic: Callable[[Array], float],
    shape: Sequence[int],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Estimate:
    """Any statistic with its 95 % interval over training seeds and prompts: a bootstrap.

    The design is crossed: every seed answers the same prompts. Each resample draws seeds (of each
    side for itself) and prompts with replacement, and a cell counts as often as all that it stands
    for were drawn (Owen 2007, "The pigeonhole bootstrap"). With one seed that is the percentile
    interval over prompts.

    Three seeds resampled spread less than three new ones would, by (S-1)/S in variance, and no
    resample leaves their range. So the percentiles' distances from the value are stretched: to a
    standard error whose part for seeds is the jackknife's, and by Student's t over the normal
    distribution at Satterthwaite's degrees of freedom. Where prompts make nearly all of the spread
    that is a factor of about 1; where seeds make it, three give about 2.7.

    Args:
        statistic: of weights of `shape`; all ones give the value. NaN where it has none: such
            resamples do not count.
        shape: numbers of seeds, one for each side that has some, and last the number of prompts.
        seed: of the resampling.
        resamples: of the bootstrap.

    Returns:
        n counts prompts. Of a single prompt, or where no resample has a value, the interval is the
        value itself.
    """
    value = statistic(np.ones(shape))
    generator = np.random.default_rng(seed)
    drawn = np.array([statistic(_crossed(shape, generator)) for _ in range(resamples)])
    drawn = drawn[~np.isnan(drawn)]
    if math.isnan(value) or shape[-1] < 2 or not drawn.size:
        return Estimate(value, value, value, shape[-1])
    ends = np.quantile(drawn, [0.025, 0.975])
    stretch = _stretch(statistic, shape, float(drawn.var()))
    low, high = value + stretch * (ends - value)
    return Estimate(value, float(low), float(high), shape[-1])


def _crossed(shape: Sequence[int], generator: np.random.Generator) -> Array:
    """How often each cell is drawn in one resample of every axis."""
    weights: Array = np.ones(())
    for levels in shape:
        drawn = np.bincount(generator.integers(levels, size=levels), minlength=levels)
        weights = np.multiply.outer(weights, drawn.astype(float))
    return weights


def _stretch(statistic: Callable[[Array], float], shape: Sequence[int], variance: float) -> float:
    """By how much a bootstrap's percentile interval is too narrow for its few seeds."""
    from scipy.stats import t as student

    several = [(axis, levels) for axis, levels in enumerate(shape[:-1]) if levels > 1]
    parts = [(_jackknife(statistic, shape, axis), levels) for axis, levels in several]
    lost = sum(part**2 / (levels - 1) for part, levels in parts)
    if not lost or not variance:
        return 1.0
    whole = variance + sum(part / levels for part, levels in parts)
    freedom = max(whole**2 / lost, min(levels for _, levels in parts) - 1)
    return float(student.ppf(0.975, freedom)) / Z95 * sqrt(whole / variance)


def _jackknife(statistic: Callable[[Array], float], shape: Sequence[int], axis: int) -> float:
    """Variance of a statistic over one axis, by leaving out one of its levels after the other."""
    left = []
    for level in range(shape[axis]):
        weights = np.ones(shape)
        np.moveaxis(weights, axis, 0)[level] = 0.0
        left.append(statistic(weights))
    spread = np.array([one for one in left if not math.isnan(one)])
    return float((shape[axis] - 1) * spread.var()) if spread.size else 0.0


def ranked_right(gaps: Iterable[float]) -> float:
    """How many pairs are ranked right, by how far the better side's reward is ahead.

    A tie counts one half: who cannot tell two sides apart is right as often as a coin. NaN if any
    gap is NaN.
    """
    return sum(map(ranked, gaps))


def ranked(gap: float) -> float:
    """How right one pair is ranked: 1, 0, or one half at a tie; NaN for NaN."""
    return math.nan if gap != gap else 1.0 if gap > 0 else 0.5 * (gap == 0)
