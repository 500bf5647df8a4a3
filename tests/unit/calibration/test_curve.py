"""The curve against strength: loops, the search for a KL, and the best score that is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trimtab.calibration.curve import (
    CurvePoint,
    best_scored,
    between,
    bracket,
    off_target,
    repetition,
)
from trimtab.calibration.plan import Goal
from trimtab.calibration.search import MOST_STEPS, search
from trimtab.errors import ConfigError
from trimtab.stats import Estimate


def at(value: float) -> Estimate:
    return Estimate(value, value, value, 10)


def point(strength: float, kl: float, score: float = 0.0, loops: float = 0.0) -> CurvePoint:
    return CurvePoint(strength, at(kl), at(1), at(-1), at(loops), 9.0, at(score))


class Curve:
    """A meter whose KL is a known function of the strength."""

    def __init__(self, kl: Callable[[float], float]) -> None:
        self.kl, self.asked = kl, list[float]()

    def measure(self, strengths: Any) -> list[CurvePoint]:
        self.asked += strengths
        return [point(strength, self.kl(strength)) for strength in strengths]


GRID = [0.0, 0.25, 0.5, 1.0, 2.0, 4.0]


def test_repetition_by_hand() -> None:
    """1 2 3 4 1 2 3 4 has the 4-grams 1234 2341 3412 4123 1234: one of five has been before."""
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition([7] * 12) == pytest.approx(8 / 9)
    assert repetition([1, 2, 3]) == 0 == repetition([1, 2, 3, 4])


def test_a_quadratic_kl_is_hit_at_once() -> None:
    """KL = w² / 8 is 0.2 at w = √1.6, which the power law through the neighbours hits."""
    low, high = bracket([point(w, w * w / 8) for w in GRID], 0.2)
    assert (low.strength, high.strength) == (1, 2)
    assert between(low, high, 0.2) == pytest.approx(1.6**0.5, rel=1e-3)
    assert between(point(0, 0), high, 0.2) == pytest.approx(1.6**0.5, rel=1e-3)


@pytest.mark.parametrize(
    "kl",
    [
        lambda w: w**2 / 8,
        lambda w: w**4,
        lambda w: w / 3,
        lambda w: 0.5 * (1 - 2.718281828 ** -(w**2)),
        lambda w: 0.1 * w + 0.05 * (w > 1.3),
    ],
)
@pytest.mark.parametrize("target", [0.003, 0.1, 0.3])
def test_the_search_ends_within_the_tolerance(kl: Callable[[float], float], target: float) -> None:
    meter = Curve(kl)
    curve, chosen, why = search(meter, meter.measure(GRID), Goal(target))
    assert chosen is not None and why is None and off_target(chosen, target) <= 0.05
    assert [p.strength for p in curve] == sorted(meter.asked)
    assert len(meter.asked) <= len(GRID) + MOST_STEPS


def test_a_kl_that_jumps_over_the_target_ends_at_the_nearest_side() -> None:
    meter = Curve(lambda w: 0.07 if 0 < w < 1.3 else 0.5 * (w > 0))
    _, chosen, _ = search(meter, meter.measure(GRID), Goal(0.1))
    assert chosen is not None and chosen.kl.value == 0.07 and chosen.strength < 1.3


def test_where_the_kl_falls_again_the_smallest_strength_is_meant() -> None:
    meter = Curve(lambda w: w if w <= 1 else 1 / w)
    _, chosen, _ = search(meter, meter.measure(GRID), Goal(0.5))
    assert chosen is not None and chosen.strength == 0.5
    _, chosen, why = search(meter, meter.measure(GRID), Goal(1.5))
    assert chosen is None and "the largest is 1, at strength 1" in str(why)


def test_the_best_score_of_those_allowed() -> None:
    """Base loops 0.05, so 0.1 more is 0.15; the best score of all costs 0.9 nats."""
    curve = [
        point(0, 0, 1.0, 0.05), point(1, 0.1, 2.0, 0.15), point(2, 0.4, 3.0, 0.15),
        point(3, 0.9, 3.0, 0.1), point(4, 2.0, 9.0, 0.16),
    ]  # fmt: skip

    def best(**limits: Any) -> float:
        given: dict[str, Any] = {"cost": False, "max_kl": None, "max_loops": 0.1, **limits}
        return best_scored(curve, **given).strength

    assert best() == 2  # of two that score alike, the weaker
    assert best(max_loops=0.2) == 4
    assert best(max_kl=0.3) == 1
    with pytest.raises(ConfigError, match=r"no strength scores better than the base \(1\.000"):
        best(cost=True)
    with pytest.raises(ConfigError, match=r"\(4 of 5 exceed --max-kl or --max-loops\)"):
        best(max_kl=0.01)
