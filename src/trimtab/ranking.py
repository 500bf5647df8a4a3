"""How often a reward ranks pairs right: the one rule behind every accuracy that Trimtab reports."""

from __future__ import annotations

import math
from collections.abc import Iterable


def ranked_right(gaps: Iterable[float]) -> float:
    """How many pairs are ranked right, by how far the better side's reward is ahead.

    A tie counts one half: who cannot tell two sides apart is right as often as a coin. NaN if any
    gap is NaN.
    """
    return sum(math.nan if gap != gap else 1.0 if gap > 0 else 0.5 * (gap == 0) for gap in gaps)
