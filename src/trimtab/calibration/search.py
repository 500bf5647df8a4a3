"""The point of a curve to take: measured between two others until it is near enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab.calibration.curve import CurvePoint, best_scored, between, bracket, off_target
from trimtab.calibration.plan import Goal
from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from trimtab.calibration.meter import Meter  # PyTorch comes with it

MOST_STEPS = 8  # of the search between two strengths of the grid


def search(
    meter: Meter, curve: list[CurvePoint], goal: Goal
) -> tuple[list[CurvePoint], CurvePoint | None, ConfigError | None]:
    """The curve with all that was measured, the point to take, and why there is none."""
    try:
        if goal.target_kl is None:
            best = best_scored(curve, cost=goal.cost, max_kl=goal.max_kl, max_loops=goal.max_loops)
            return curve, best, None
        for _ in range(MOST_STEPS):
            ends = bracket(curve, goal.target_kl)
            if min(off_target(point, goal.target_kl) for point in ends) <= goal.tolerance:
                break
            strength = between(*ends, goal.target_kl)
            if strength in [point.strength for point in curve]:
                break  # four digits tell no more
            curve = sorted([*curve, *meter.measure([strength])], key=lambda p: p.strength)
        ends = bracket(curve, goal.target_kl)
    except ConfigError as why:
        return curve, None, why
    target = goal.target_kl
    return curve, min(ends, key=lambda point: off_target(point, target)), None
