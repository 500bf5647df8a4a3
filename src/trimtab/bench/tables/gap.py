"""How much of what DPO gains over the base another way gains.

S seeds of a way, D seeds of DPO, B seeds of the base, P prompts.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trimtab.stats import Estimate, hierarchical, hierarchical_of

Array = NDArray[np.float64]


def reward_gains(one_SP: Array, base_BP: Array) -> Array:
    """Reward over the base's, [S, B, P]."""
    return one_SP[:, None] - base_BP[None]


def win_gains(one_SP: Array, base_BP: Array) -> Array:
    """Win + ½ tie against the base, over the half that the base has against itself, [S, B, P]."""
    gaps_SBP = reward_gains(one_SP, base_BP)
    return np.sign(gaps_SBP) / 2


def share_of_gap(one_SBP: Array, dpo_DBP: Array, *, seed: int = 0) -> Estimate | None:
    """Mean gain of a way, of DPO's mean gain, with its 95 % interval over seeds and prompts.

    Each resample draws seeds of the way, of DPO and of the base, and prompts, for both gains
    together; those in which DPO gains nothing have no share and do not count: one in forty at most,
    as there is no gap to share where DPO's own interval reaches 0.

    Args:
        one_SBP: gains of the way.
        dpo_DBP: gains of DPO on the same prompts over the same answers of the base.
        seed: of the resampling.

    Returns:
        None where DPO is not above the base beyond its interval.
    """
    if not hierarchical(dpo_DBP, seed=seed).low > 0:
        return None
    (ways, bases, prompts), tuned = one_SBP.shape, len(dpo_DBP)

    def share(weights_SDBP: Array) -> float:
        own = (weights_SDBP.sum(1) * one_SBP).sum()
        whole = (weights_SDBP.sum(0) * dpo_DBP).sum()
        return float(own / whole) if whole > 0 else math.nan

    return hierarchical_of(share, (ways, tuned, bases, prompts), seed=seed)
