"""What a number that users give may be, and the sentence for one that may not."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, NamedTuple

from trimtab.errors import ConfigError

TINY = math.ulp(0.0)


class Bound(NamedTuple):
    """What a setting may be: all of it can be computed with, in float32 or int64."""

    kind: type[Real] | type[Integral]
    least: float
    most: float
    hint: str
    zero: bool = False

    def require(self, name: str, value: Any) -> None:
        """Refuse a value of another kind or outside the bounds, NaN with them."""
        number = isinstance(value, self.kind) and not isinstance(value, bool)
        zero = self.zero and number and value == 0
        if not (zero or (number and self.least <= value <= self.most)):
            raise ConfigError(f"{name} is {value!r}", f"it must be {self.hint}")
