"""Intervals. Every mean and share that Trimtab prints carries one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trimtab.stats import Z95 as Z95
from trimtab.stats import Estimate as Estimate
from trimtab.stats import share as share


def mean(values: Sequence[float], *, seed: int = 0, resamples: int = 2000) -> Estimate:
    """A mean with its bootstrap percentile interval over the observations.

    Pass one value per independent unit: average a prompt's samples first, so that the interval is
    over prompts.
    """
    data = np.asarray(values, dtype=float)
    if data.size == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    picks = np.random.default_rng(seed).integers(data.size, size=(resamples, data.size))
    low, high = np.quantile(data[picks].mean(axis=1), [0.025, 0.975])
    return Estimate(float(data.mean()), float(low), float(high), int(data.size))
