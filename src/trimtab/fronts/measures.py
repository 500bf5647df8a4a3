"""The arithmetic of trade-off fronts: lattices, hypervolume, mean inner product, intervals.

Axes: P preferences (one point of a front each), N prompts, K objectives, R resamples. More is
better on every objective here: whoever has costs turns their sign first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum, isnan, nan

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.stats import Estimate

Array = NDArray[np.float64]

ROUNDING = 2.0**-44  # of the scores' magnitude: 256 units in the last place


def non_dominated(points_PK: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates, [P]; of equal points all are kept.

    A point dominates another one if it is at least as good on every objective and better on one.
    """
    points: Array = np.asarray(points_PK, dtype=float)
    no_worse_PP = np.all(points[:, None] >= points[None], axis=-1)
    better_PP = np.any(points[:, None] > points[None], axis=-1)
    dominated_P: NDArray[np.bool_] = np.any(no_worse_PP & better_PP, axis=0)
    return ~dominated_P


def without_rounding(points_PK: Array, size_K: Array) -> Array:
    """Points as whole multiples of what rounding can hide, for `non_dominated`, [P, K].

    Means that are equal in truth differ by a few units in the last place of the *scores* that went
    in (0.1 and 0.3 against 0.2 and 0.2). Here they are equal.

    Args:
        points_PK: means, in the scores' own units.
        size_K: the largest magnitude among the scores, per objective.
    """
    grain_K = np.where(size_K > 0, size_K, 1.0) * ROUNDING
    return np.rint(points_PK / grain_K)


def hypervolume(points_PK: ArrayLike, reference_K: ArrayLike) -> float:
    """Volume of what the points dominate above a reference point; exact, for any K.

    Only what a point has beyond the reference on *every* objective counts. Zitzler & Thiele 1998.
    """
    points = np.asarray(points_PK, dtype=float)
    if not len(points):
        return 0.0
    return float(hypervolumes(points[non_dominated(points)][None], reference_K)[0])


def hypervolumes(points_RPK: Array, reference_K: ArrayLike) -> Array:
    """The hypervolume of each of R sets of points, [R]; NaN for a set that has a NaN."""
    heights_RPK = np.maximum(points_RPK - np.asarray(reference_K, dtype=float), 0.0)
    unknown_R = np.isnan(points_RPK).any(axis=(1, 2))
    return np.where(unknown_R, np.nan, _volumes(np.nan_to_num(heights_RPK)))


def _volumes(heights_RPK: Array) -> Array:
    """Volume of the union of boxes [0, height], [R].

    The last objective is cut into slabs at the points' heights; the base of a slab is what the
    points that reach it cover on the other objectives.
    """
    if heights_RPK.shape[-1] == 1:
        top_R: Array = heights_RPK[..., 0].max(axis=1)
        return top_R
    order_RP = np.argsort(-heights_RPK[..., -1], axis=1, kind="stable")
    sorted_RPK = np.take_along_axis(heights_RPK, order_RP[..., None], axis=1)
    thick_RP = -np.diff(sorted_RPK[..., -1], axis=1, append=0.0)
    bases_RPK = sorted_RPK[..., :-1]
    if bases_RPK.shape[-1] == 1:
        areas_R: Array = (thick_RP * np.maximum.accumulate(bases_RPK[..., 0], axis=1)).sum(axis=1)
        return areas_R
    volume_R = np.zeros(len(heights_RPK))
    for i in range(thick_RP.shape[1]):
        if thick_RP[:, i].any():
            volume_R += thick_RP[:, i] * _volumes(bases_RPK[:, : i + 1])
    return volume_R


def mean_inner_product(points_PK: ArrayLike, preferences_PK: ArrayLike) -> float:
    """MIP: the mean over preferences of α · r(α), what users get in the terms they asked for.

    PARM (arXiv 2505.06274), after Pareto set learning.
    """
    return float(_inner_products(np.asarray(points_PK, dtype=float)[None], preferences_PK)[0])


def _inner_products(points_RPK: Array, preferences_PK: ArrayLike) -> Array:
    products: Array = (
        (points_RPK * np.asarray(preferences_PK, dtype=float)).sum(axis=-1).mean(axis=-1)
    )
    return products


def resample(n: int, *, resamples: int, seed: int) -> Array:
    """How often each of N prompts is drawn in each bootstrap resample, [R, N]."""
    picks_RN = np.random.default_rng(seed).integers(n, size=(resamples, n))
    return np.stack([np.bincount(picks_N, minlength=n) for picks_N in picks_RN]).astype(float)


def resampled_means(scores_PNK: Array, counts_RN: Array) -> Array:
    """Mean over prompts in every resample, [R, P, K]; missing scores (NaN) do not count.

    NaN where a resample holds no score at all.
    """
    there_PNK = ~np.isnan(scores_PNK)
    sums = np.einsum("rn,pnk->rpk", counts_RN, np.where(there_PNK, scores_PNK, 0.0), optimize=True)
    sizes = np.einsum("rn,pnk->rpk", counts_RN, there_PNK.astype(float), optimize=True)
    return _ratio(sums, sizes)


def over_seeds(scores_SPNK: Array) -> Array:
    """Mean over seeds, [P, N, K]; NaN where a prompt has no score at all."""
    return _mean_of_first(scores_SPNK)


def _ratio(sums: Array, sizes: Array) -> Array:
    ratios = np.full_like(sums, np.nan)
    np.divide(sums, sizes, out=ratios, where=sizes > 0)
    return ratios


def means(scores_PNK: Array) -> Array:
    """Mean over prompts, [P, K]; missing scores (NaN) do not count."""
    return _mean_of_first(scores_PNK.swapaxes(0, 1))


def _mean_of_first(scores_N: Array) -> Array:
    """Mean over the first axis of what is no NaN; the same whatever the order of the scores."""
    means = np.empty(scores_N.shape[1:])
    for at in np.ndindex(means.shape):
        there = [x for x in scores_N[(slice(None), *at)].tolist() if not isnan(x)]
        means[at] = fsum(there) / len(there) if there else nan
    return means


def interval(value: float, resampled_R: Array, n: int) -> Estimate:
    """A value with its 95 % percentile interval; resamples without a value (NaN) do not count."""
    low, high = np.nanquantile(resampled_R, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high), n)


@dataclass(frozen=True)
class FrontEstimates:
    """One guide's front in two numbers, and how they differ from the reference guide's.

    Attributes:
        hypervolume: of the guide's points.
        mip: mean inner product.
        hypervolume_difference: to the reference guide on the same resampled prompts; None for the
            reference guide itself.
        mip_difference: likewise.
    """

    hypervolume: Estimate
    mip: Estimate
    hypervolume_difference: Estimate | None
    mip_difference: Estimate | None


def compare_fronts(
    scores: Mapping[str, Array],
    preferences_PK: ArrayLike,
    reference_K: ArrayLike,
    counts_RN: Array,
    *,
    against: str,
) -> dict[str, FrontEstimates]:
    """Hypervolume and MIP of guides, with percentile intervals over prompts.

    Args:
        scores: guide -> scores [P, N, K] of the same prompts, one per prompt (a prompt's samples
            averaged); NaN where a score is missing.
        preferences_PK: weights of each point.
        reference_K: of the hypervolume; fixed, the same in every resample.
        counts_RN: from `resample`; every guide sees the same draws, so that differences are paired.
        against: the guide that the others are compared with.
    """
    n = counts_RN.shape[1]
    values: dict[str, tuple[float, float]] = {}
    drawn: dict[str, tuple[Array, Array]] = {}
    for name, scores_PNK in scores.items():
        points_PK, points_RPK = means(scores_PNK), resampled_means(scores_PNK, counts_RN)
        values[name] = (
            hypervolume(points_PK, reference_K),
            mean_inner_product(points_PK, preferences_PK),
        )
        drawn[name] = (
            hypervolumes(points_RPK, reference_K),
            _inner_products(points_RPK, preferences_PK),
        )

    def difference(name: str, which: int) -> Estimate | None:
        if name == against:
            return None
        gap = values[name][which] - values[against][which]
        return interval(gap, drawn[name][which] - drawn[against][which], n)

    return {
        name: FrontEstimates(
            interval(values[name][0], drawn[name][0], n),
            interval(values[name][1], drawn[name][1], n),
            difference(name, 0),
            difference(name, 1),
        )
        for name in scores
    }
