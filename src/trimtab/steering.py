"""Preference, strength, KL budget and gate: parsed, validated and normalised in one place.

The CLI, the servers and the engines all use this module; it imports nothing heavy.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import Literal

from trimtab.bounds import TINY, Bound
from trimtab.entries import named_values
from trimtab.errors import ConfigError, PreferenceError

logger = logging.getLogger(__name__)

PreferenceLike = Mapping[str, float] | str
STRONGEST = 1e6
"""The largest strength, and weight of an ARM: far beyond use, and safe in float32."""
_SUMS = 1e-100, 1e100  # of the weights of a preference: their shares keep all their digits
_LIMITS = {
    "kl_budget": Bound(Real, 0, 1e300, "0 nats or more; leave it out for none"),
    "gate": Bound(Real, TINY, 1, "a probability in (0, 1]"),
}
Combine = Literal["fusion", "soup", "factor-soup", "forward-kl"]
"""How several ARMs or policies act: each by itself; averaged into one, by their updates or by their
factors apart; of policies, also by the forward KL's mean."""


@dataclass(frozen=True)
class Steering:
    """How one request is steered.

    Attributes:
        preference: weight per objective; non-negative, sums to one, in the engine's order.
        strength: how hard the guide pulls, 1/β of the papers; 0 is the base exactly.
        kl_budget: nats per token; the strength is lowered, token by token, so that the KL
            divergence of the steered distribution from the base's, before temperature and
            filters, stays within it. None for no budget.
        gate: tokens for which the base gives one token more than this probability come from the
            base alone. None for no gate.
    """

    preference: Mapping[str, float]
    strength: float = 1.0
    kl_budget: float | None = None
    gate: float | None = None

    @classmethod
    def of(
        cls,
        objectives: Sequence[str],
        preference: PreferenceLike | None = None,
        strength: float | str = 1.0,
        kl_budget: float | None = None,
        gate: float | None = None,
    ) -> Steering:
        """Validate a request's preference against the objectives an engine has.

        Args:
            objectives: the names that can be steered to.
            preference: `{"helpful": 0.7, "harmless": 0.3}`, the same as text
                (`"helpful=0.7,harmless=0.3"`), or None for equal weights.
            strength: 0 to `STRONGEST`.
            kl_budget: nats per token, 0 or more.
            gate: a probability in (0, 1].

        Raises:
            ConfigError: a budget or a gate out of range.
            PreferenceError: an unknown, missing or repeated objective; a negative, NaN or infinite
                weight; weights whose sum is zero, tiny or huge; a strength out of range.
        """
        require_limits(kl_budget, gate)
        weights = _on_simplex(objectives, preference)
        return cls(weights, parse_strength(strength), kl_budget, gate)

    def share(self, objectives: Sequence[str], scale: float = 1.0) -> tuple[float, list[float]]:
        """What one ARM gets: its fusion weight, and the preference that goes into it.

        An ARM of one objective has `w_i = strength · preference_i · scale_i`. A conditioned ARM
        takes the preference among its own objectives, and weighs as much as they do together: all
        of the strength where it has all objectives (design.md §2).

        Raises:
            PreferenceError: the scale makes a weight of it that float32 cannot take.
        """
        weights = [self.preference[name] for name in objectives]
        total = math.fsum(weights)
        inner = [p / total for p in weights] if total else [1 / len(weights)] * len(weights)
        weight = self.strength * total * scale
        if not abs(weight) <= STRONGEST:
            raise PreferenceError(
                f"strength {self.strength:g} with the scale {scale:g} of {'+'.join(objectives)} "
                f"makes a weight of {weight:g}",
                f"keep it within {STRONGEST:.0f}",
            )
        return weight, inner


def require_limits(kl_budget: float | None, gate: float | None) -> None:
    """Refuse a KL budget or a gate out of range.

    Raises:
        ConfigError: it names the first of them.
    """
    for name, value in (("kl_budget", kl_budget), ("gate", gate)):
        if value is not None:
            _LIMITS[name].require(name, value)


def require_name(objective: str) -> None:
    """Refuse what cannot name an objective.

    Raises:
        ConfigError: it has other characters than letters, digits, `_` and `-`.
    """
    if not objective.replace("-", "_").isidentifier():
        raise ConfigError(f"objective {objective!r} is no name", "use letters, digits, '_' and '-'")


def parse_strength(value: float | str) -> float:
    """Read a strength: 0 to `STRONGEST`."""
    number = _number(value, "strength")
    if number < 0:
        raise PreferenceError(f"strength {value} is negative", "use 0 (the base alone) or more")
    if number > STRONGEST:
        raise PreferenceError(f"strength {value} is too large", f"use {STRONGEST:.0f} at most")
    return number


def parse_preference(value: PreferenceLike) -> dict[str, float]:
    """Read weights per objective as given, not normalised: a mapping or `a=0.7,b=0.3`."""
    if isinstance(value, str):
        return _parse_text(value)
    if not isinstance(value, Mapping):
        raise PreferenceError(
            f"a preference must be an object or text, not {type(value).__name__}",
            "write it like helpful=0.7,harmless=0.3",
        )
    return {name: _weight(name, weight) for name, weight in value.items()}


def _parse_text(text: str) -> dict[str, float]:
    named = named_values(
        filter(None, (part.strip() for part in text.split(","))),
        unreadable=lambda part: PreferenceError(
            f"cannot read {part!r} in preference {text!r}", "write it like helpful=0.7,harmless=0.3"
        ),
        twice=lambda name: PreferenceError(
            f"objective {name!r} is weighted twice in {text!r}", "name it once"
        ),
    )
    return {name: _weight(name, number) for name, number in named.items()}


def _on_simplex(objectives: Sequence[str], preference: PreferenceLike | None) -> dict[str, float]:
    if preference is None:
        return {name: 1.0 / len(objectives) for name in objectives}
    given = parse_preference(preference)
    known = ", ".join(objectives) or "none"
    for name in given:
        if name not in objectives:
            raise PreferenceError(
                f"unknown objective {name!r}", f"the objectives here are: {known}"
            )
    missing = [name for name in objectives if name not in given]
    if missing:
        raise PreferenceError(
            f"the preference has no weight for {', '.join(missing)}",
            f"weight every objective ({known}), with 0 where it should not count",
        )
    try:
        total = math.fsum(given.values())
    except OverflowError:
        total = math.inf
    if objectives and total <= 0:
        raise PreferenceError(
            "all weights of the preference are zero",
            "give at least one objective a positive weight, or use strength 0 for the base alone",
        )
    if objectives and not _SUMS[0] <= total <= _SUMS[1]:
        raise PreferenceError(f"the preference weights sum to {total:g}", "let them sum to one")
    if objectives and abs(total - 1) > 1e-6:
        _say_normalised_once(total)
    return {name: given[name] / total for name in objectives}


@lru_cache(maxsize=1)
def _say_normalised_once(total: float) -> None:
    logger.warning("preference weights sum to %g, not 1: they are normalised", total)


def _weight(name: str, value: float | str) -> float:
    number = _number(value, f"the weight of {name!r}")
    if number < 0:
        raise PreferenceError(
            f"the weight of {name!r} is negative ({value})",
            "use 0 or more; to steer away, give the sign to an instruction or a contrast "
            f"({name}=-0.5:...)",
        )
    return number


def _number(value: float | str, what: str) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        raise PreferenceError(f"{what} is not a number ({value!r})", "use a number >= 0") from None
    if not math.isfinite(number):
        raise PreferenceError(f"{what} is not finite ({value})", "use a number >= 0")
    return number


def weights_of(preference: PreferenceLike | None, objectives: Sequence[str]) -> list[float]:
    """A preference's weight for each objective of a reward model; by default all alike.

    Raises:
        PreferenceError: one that does not fit, or any where the model has no objectives.
    """
    if objectives:
        return [*Steering.of(objectives, preference).preference.values()]
    if preference is not None:
        raise PreferenceError("this reward model takes no preference", "leave --preference out")
    return []
