"""The preferences of a sweep: all weights that are multiples of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import comb

from trimtab.errors import ConfigError


def lattice_size(objectives: int, step: float) -> int:
    """Number of points of the lattice that `lattice` makes: C(n + K − 1, K − 1) with n = 1/step."""
    return comb(_parts(step) + objectives - 1, objectives - 1)


def lattice(objectives: Sequence[str], step: float) -> list[dict[str, float]]:
    """Preferences on the simplex whose weights are multiples of a step.

    Args:
        objectives: K names.
        step: distance of two neighbours; it must divide 1.

    Returns:
        Weight per objective, each exactly i/n with n = 1/step; from all weight on the first
        objective to all on the last.

    Raises:
        ConfigError: a step that does not divide 1.
    """
    n = _parts(step)
    return [
        {name: i / n for name, i in zip(objectives, counts, strict=True)}
        for counts in _compositions(n, len(objectives))
    ]


def _parts(step: float) -> int:
    n = round(1 / step) if 0 < step <= 1 else 0
    if not n or abs(n * step - 1) > 1e-9:
        raise ConfigError(f"a step of {step:g} does not divide 1", "use 1, 0.5, 0.25, 0.2, 0.1, …")
    return n


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to share a total among parts, the first part's largest share first."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        yield from ((first, *rest) for rest in _compositions(total - first, parts - 1))
