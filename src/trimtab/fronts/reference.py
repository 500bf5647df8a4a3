"""The reference point of the hypervolume, as a user names it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from trimtab.entries import named_entries
from trimtab.errors import ConfigError
from trimtab.fronts.numbers import Reference


def read_reference(wanted: Reference | str, objectives: Sequence[str]) -> Reference:
    """The reference point, checked: `worst`, `base`, or a number for each objective.

    Raises:
        ConfigError: other objectives, or what is no finite number.
    """
    if wanted in ("worst", "base"):
        return wanted
    hint = "write worst, base, or a number for each: " + ",".join(f"{o}=0" for o in objectives)
    entries: Mapping[str, str | float]
    if isinstance(wanted, str):
        entries = named_entries(wanted.split(","), "--reference", "helpful=0")
    else:
        entries = wanted
    numbers: dict[str, float] = {}
    for name, value in entries.items():
        try:
            numbers[name] = float(value)
        except ValueError:
            raise ConfigError(f"--reference has {value!r} for {name!r}", hint) from None
    if set(numbers) != set(objectives) or not all(map(math.isfinite, numbers.values())):
        raise ConfigError(f"cannot use --reference {wanted}", hint)
    return numbers
