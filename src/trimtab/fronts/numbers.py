"""Records of a sweep to numbers: fronts with intervals, hypervolume, MIP and what they rest on.

Axes: S seeds, P preferences, N prompts, K objectives, R resamples. `raw` is in a scorer's own units
and direction; `common` has more as better (costs negated) and, by default, the standard deviation
of the base's answers as its unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import ConfigError, DataError
from trimtab.fronts import measures
from trimtab.fronts.guides import BASE
from trimtab.fronts.measures import Array

Normalize = Literal["base", "none"]
Reference = Literal["worst", "base"] | Mapping[str, float]


@dataclass(frozen=True)
class Design:
    """What was swept, and what the scores mean.

    Attributes:
        guides: names, without the base's; the others are compared with the first.
        objectives: K names.
        costs: those of them of which less is better.
        preferences: P points, weight per objective.
        seeds: of sampling.
        n_prompts: N.
    """

    guides: Sequence[str]
    objectives: Sequence[str]
    costs: Sequence[str]
    preferences: Sequence[Mapping[str, float]]
    seeds: Sequence[int]
    n_prompts: int

    @property
    def signs(self) -> Array:
        """−1 for a cost, [K]."""
        return np.array([-1.0 if name in self.costs else 1.0 for name in self.objectives])

    @property
    def weights(self) -> Array:
        """The preferences as an array, [P, K]."""
        return np.array([[p[name] for name in self.objectives] for p in self.preferences])


@dataclass(frozen=True)
class Scale:
    """From raw scores to common ones: `sign · (raw − mean) / unit`, per objective.

    `alike` marks objectives on which all answers of the base score alike.
    """

    signs_K: Array
    mean_K: Array
    unit_K: Array
    alike_K: NDArray[np.bool_]

    def common(self, raw: Array) -> Array:
        """Raw scores [..., K] in common units."""
        scaled: Array = self.signs_K * (raw - self.mean_K) / self.unit_K
        return scaled

    def raw(self, common: Array) -> Array:
        """Common scores [..., K] in raw units."""
        scaled: Array = self.signs_K * common * self.unit_K + self.mean_K
        return scaled


def gather(records: Iterable[Mapping[str, Any]], design: Design) -> dict[str, Array]:
    """Guide (the base first) -> raw scores [S, P, N, K]; NaN where one is missing.

    Raises:
        DataError: a guide has no score at all on some objective at some preference.
    """
    sizes = {BASE: 1, **dict.fromkeys(design.guides, len(design.preferences))}
    shape = (design.n_prompts, len(design.objectives))
    by_guide = {name: np.full((len(design.seeds), p, *shape), np.nan) for name, p in sizes.items()}
    seeds = {seed: i for i, seed in enumerate(design.seeds)}
    points = {_key(preference): i for i, preference in enumerate(design.preferences)}
    for row in records:
        at = (seeds[row["seed"]], points.get(_key(row["preference"]), 0), row["prompt_index"])
        scores = [row["scores"][name] for name in design.objectives]
        by_guide[row["guide"]][at] = [np.nan if score is None else score for score in scores]
    for guide, scores_SPNK in by_guide.items():
        for _, k in np.argwhere(np.isnan(scores_SPNK).all(axis=(0, 2)))[:1]:
            raise DataError(
                f"no score of {guide!r} on {design.objectives[k]!r} could be read at some "
                "preference",
                "look at the replies of its scorer, or take another one",
            )
    return by_guide


def _key(preference: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(preference.items()))


def scale_of(base_SPNK: Array, signs_K: Array, kind: Normalize) -> Scale:
    """The scale on which the base's own answers have mean 0 and standard deviation 1, or none.

    Where all answers of the base score alike, but for rounding, there is nothing to divide by: the
    unit stays raw.
    """
    rows = base_SPNK.reshape(-1, base_SPNK.shape[-1])
    mean_K, spread_K = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
    width_K = np.nanmax(rows, axis=0) - np.nanmin(rows, axis=0)
    alike_K = width_K <= size_of([base_SPNK]) * measures.ROUNDING
    if kind == "none":
        return Scale(signs_K, np.zeros_like(signs_K), np.ones_like(signs_K), alike_K)
    return Scale(signs_K, mean_K, np.where(alike_K, 1.0, spread_K), alike_K)


def size_of(scores: Iterable[Array]) -> Array:
    """The largest magnitude among scores [..., K], per objective, [K]."""
    tops = [np.nanmax(np.abs(each.reshape(-1, each.shape[-1])), axis=0) for each in scores]
    largest: Array = np.max(tops, axis=0)
    return largest


def reference_point(
    kind: Reference, points: Mapping[str, Array], scale: Scale, objectives: Sequence[str]
) -> Array:
    """The hypervolume's reference point in common units, [K].

    Args:
        kind: `worst`, the componentwise worst of all points; `base`, the base's means; or raw
            numbers per objective.
        points: guide -> mean scores in common units, the base's among them.
        scale: to common units.
        objectives: their order.
    """
    if kind == "worst":
        worst: Array = np.concatenate(list(points.values())).min(axis=0)
        return worst
    if kind == "base":
        base: Array = points[BASE][0]
        return base
    if not isinstance(kind, Mapping):
        raise ConfigError(f"unknown reference {kind!r}", "use worst, base or raw numbers")
    return scale.common(np.array([kind[name] for name in objectives]))


def front_numbers(
    records: Sequence[Mapping[str, Any]],
    design: Design,
    *,
    normalize: Normalize = "base",
    reference: Reference = "worst",
    resamples: int = 2000,
) -> dict[str, Any]:
    """Every number of a sweep, as `front.json` holds it.

    Args:
        records: a row per response with `scores`, `tokens`, `seconds` and where it belongs.
        design: what was swept.
        normalize: `base` standardises by the base's own answers, `none` keeps raw units.
        reference: of the hypervolume.
        resamples: bootstrap resamples of the prompts; every guide sees the same ones.

    Raises:
        DataError: scores that are all missing somewhere.
    """
    raw = gather(records, design)
    scale = scale_of(raw[BASE], design.signs, normalize)
    common = {name: scale.common(measures.over_seeds(scores)) for name, scores in raw.items()}
    raw_points = {name: measures.means(measures.over_seeds(scores)) for name, scores in raw.items()}
    points = {name: scale.common(means) for name, means in raw_points.items()}
    ranks = {
        name: measures.without_rounding(design.signs * means, size_of(raw.values()))
        for name, means in raw_points.items()
    }
    at_K = reference_point(reference, points, scale, design.objectives)
    counts_RN = measures.resample(design.n_prompts, resamples=resamples, seed=0)
    against = design.guides[0]
    compared = measures.compare_fronts(common, design.weights, at_K, counts_RN, against=against)
    joint = _joint_front(ranks)
    guides: dict[str, Any] = {}
    for name, scores_SPNK in raw.items():
        best = (measures.non_dominated(ranks[name]), joint[name])
        means = _points(scores_SPNK, points[name], best, design.objectives, counts_RN)
        preferences = [{}] if name == BASE else design.preferences
        guides[name] = {
            **asdict(compared[name]),
            **_costs(records, name),
            "missing": _missing(scores_SPNK, design.objectives),
            "points": [{"preference": p, **o} for p, o in zip(preferences, means, strict=True)],
        }
    return {
        **{key: value for key, value in asdict(design).items() if key != "guides"},
        "resamples": resamples,
        "against": against,
        "normalization": {"kind": normalize, **_units(scale, design.objectives)},
        "reference": _place(reference, at_K, scale, design.objectives),
        "guides": guides,
    }


def _place(kind: Reference, at_K: Array, scale: Scale, objectives: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": kind if isinstance(kind, str) else "given",
        "raw": _named(scale.raw(at_K), objectives)
        if isinstance(kind, str)
        else {name: float(kind[name]) for name in objectives},
        "common": _named(at_K, objectives),
    }


def _named(values_K: Array, objectives: Sequence[str]) -> dict[str, float]:
    return dict(zip(objectives, map(float, values_K), strict=True))


def _units(scale: Scale, objectives: Sequence[str]) -> dict[str, Any]:
    return {
        "mean": _named(scale.mean_K, objectives),
        "unit": _named(scale.unit_K, objectives),
        "base_all_alike": [n for n, a in zip(objectives, scale.alike_K, strict=True) if a],
    }


def _joint_front(ranks: Mapping[str, Array]) -> dict[str, NDArray[np.bool_]]:
    """Guide -> which of its points no point of any guide dominates, [P]."""
    mask = measures.non_dominated(np.concatenate(list(ranks.values())))
    ends = np.cumsum([len(each) for each in ranks.values()])
    return dict(zip(ranks, np.split(mask, ends[:-1]), strict=True))


def _costs(records: Iterable[Mapping[str, Any]], guide: str) -> dict[str, Any]:
    """What a guide's responses took, and how many were cut off at the token limit."""
    rows = [row for row in records if row["guide"] == guide]
    seconds, tokens = sum(r["seconds"] for r in rows), sum(r["tokens"] for r in rows)
    return {
        "responses": len(rows),
        "tokens": tokens,
        "seconds": seconds,
        "ms_per_token": 1e3 * seconds / tokens if tokens else None,
        "cut_off": sum(row["finish_reason"] == "length" for row in rows),
    }


def _missing(scores: Array, objectives: Sequence[str]) -> dict[str, int]:
    """Scores that could not be read, per objective (the last axis)."""
    lost = np.isnan(scores).sum(axis=tuple(range(scores.ndim - 1)))
    return {name: int(count) for name, count in zip(objectives, lost, strict=True)}


def _points(
    raw_SPNK: Array,
    common_PK: Array,
    best: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    objectives: Sequence[str],
    counts_RN: Array,
) -> list[dict[str, Any]]:
    """One guide's points: means in raw units with intervals, and in common units.

    `best` marks those that are on the guide's own front, and on that of all guides.
    """
    raw_PNK = measures.over_seeds(raw_SPNK)
    values_PK = measures.means(raw_PNK)
    drawn_RPK = measures.resampled_means(raw_PNK, counts_RN)
    n_PK = (~np.isnan(raw_PNK)).sum(axis=1)

    def mean(p: int, k: int) -> dict[str, Any]:
        return asdict(measures.interval(values_PK[p, k], drawn_RPK[:, p, k], int(n_PK[p, k])))

    return [
        {
            "raw": {name: mean(p, k) for k, name in enumerate(objectives)},
            "common": _named(common_PK[p], objectives),
            "missing": _missing(raw_SPNK[:, p], objectives),
            "non_dominated": bool(best[0][p]),
            "non_dominated_of_all": bool(best[1][p]),
        }
        for p in range(len(values_PK))
    ]
