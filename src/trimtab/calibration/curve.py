"""The curve of a guide against its strength, and which point of it a calibration takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from trimtab.errors import ConfigError
from trimtab.stats import Estimate

LOOPS_ABOVE = 0.5
_GRAM = 4


@dataclass(frozen=True)
class CurvePoint:
    """What a guide does at one strength: means over prompts with 95 % intervals.

    Attributes:
        strength: the ARM's whole weight in the fusion, as if no scale were stored with it.
        kl: divergence of the steered distribution from the base's, nats per generated token.
        base_nll: −log π_base of the answers, nats per token: how odd the base finds them.
        reward: the ARM's own log-prob of the answers, nats per token.
        loops: share of answers that repeat themselves (`repetition` above one half).
        tokens: mean length of the answers.
        score: the scorer's, where there is one.
        missing: answers that it gave no score.
    """

    strength: float
    kl: Estimate
    base_nll: Estimate
    reward: Estimate
    loops: Estimate
    tokens: float
    score: Estimate | None = None
    missing: int = 0


def repetition(tokens: Sequence[int]) -> float:
    """Share of an answer's 4-grams that it has already had (seq-rep-4, Welleck et al. 2020)."""
    grams = [tuple(tokens[i : i + _GRAM]) for i in range(len(tokens) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def bracket(curve: Sequence[CurvePoint], target: float) -> tuple[CurvePoint, CurvePoint]:
    """The two neighbours between which the KL first reaches a target, the smaller strength first.

    Sampled answers make the KL no monotone function of the strength; where it crosses the target
    more than once, the smallest strength is meant.

    Args:
        curve: by strength, from strength 0, where the KL is 0.
        target: nats per token.

    Raises:
        ConfigError: no point reaches it; it names the largest KL.
    """
    for low, high in pairwise(curve):
        if low.kl.value < target <= high.kl.value:
            return low, high
    top = max(curve, key=lambda point: point.kl.value)
    raise ConfigError(
        f"a KL of {target:g} nats per token is not reached: the largest is {top.kl.value:.3g}, at "
        f"strength {top.strength:g}",
        "lower --target-kl, or try larger --strengths",
    )


def between(low: CurvePoint, high: CurvePoint, target: float) -> float:
    """Where a target KL is expected: on the power law through two points, from 0 on the square.

    (The KL of a small strength is quadratic in it.) Kept off the ends of the bracket, so that it
    always shrinks; four significant digits, so that a stored scale is one that a person can read.
    """
    x0, x1, y0, y1 = low.strength, high.strength, low.kl.value, high.kl.value
    if x0 > 0 and y0 > 0:
        x = x0 * (x1 / x0) ** (math.log(target / y0) / math.log(y1 / y0))
    else:
        x = x0 + (x1 - x0) * math.sqrt((target - y0) / (y1 - y0))
    margin = 0.05 * (x1 - x0)
    return float(f"{min(max(x, x0 + margin), x1 - margin):.4g}")


def off_target(point: CurvePoint, target: float) -> float:
    """How far a point's KL is from a target, as a share of it."""
    return abs(point.kl.value - target) / target


def best_scored(
    curve: Sequence[CurvePoint], *, cost: bool, max_kl: float | None, max_loops: float
) -> CurvePoint:
    """The point with the best mean score among those that are allowed; of equal ones the weakest.

    Args:
        curve: by strength, from strength 0, each with a score.
        cost: less is better.
        max_kl: nats per token a point may have at most.
        max_loops: share of answers that may loop beyond those of the base itself.

    Raises:
        ConfigError: no point that is allowed is better than the base.
    """
    most = curve[0].loops.value + max_loops
    allowed = [
        point
        for point in curve
        if point.loops.value <= most + 1e-9 and (max_kl is None or point.kl.value <= max_kl)
    ]

    def worth(point: CurvePoint) -> float:
        assert point.score is not None
        return -point.score.value if cost else point.score.value

    best = max(allowed, key=worth)  # the first of equal ones
    if best.strength > 0:
        return best
    left = len(curve) - len(allowed)
    out = f" ({left} of {len(curve)} exceed --max-kl or --max-loops)" if left else ""
    raise ConfigError(
        f"no strength scores better than the base ({curve[0].score}){out}",
        "look at the curve: another scorer, other --strengths, wider limits, or another ARM",
    )
