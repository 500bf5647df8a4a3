"""Pairs ranked right by a reward model and by its floors: in all, and in parts of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.stats import Estimate, mean_of_shares, ranked, share_in_groups

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

WAYS = ("arm", "arm_summed", "arm_per_token", "longer", "bag_of_words")
"""Ways of ranking a pair, as `Ranked` names them."""


@dataclass(frozen=True)
class Ranked:
    """Shares of the same pairs that are ranked right, each with its 95 % interval.

    A tie counts one half (`ranked_right`). Pairs of one prompt are no independent observations: the
    intervals (Wilson's) are as wide as if each prompt had but one.

    Attributes:
        arm: the reward model, its reward as it was trained.
        arm_summed: the reward summed over the response's tokens; None for a scalar head.
        arm_per_token: the reward per token of the response; None for a scalar head, which gives one
            number for the whole response, so that dividing it by a length has no meaning.
        longer: prefer the longer response.
        bag_of_words: a linear model over uni- and bigrams, fitted on the training split of the same
            data; None when there is no training split apart from the measured pairs, or too little.
    """

    arm: Estimate
    arm_summed: Estimate | None
    arm_per_token: Estimate | None
    longer: Estimate
    bag_of_words: Estimate | None


@dataclass(frozen=True)
class Judgements:
    """How far the better side of N pairs is ahead, each way of ranking them.

    Attributes:
        gaps: one of `WAYS` -> N differences, better less worse; those that there are.
        prompts: the number of each pair's prompt [N].
    """

    gaps: Mapping[str, Sequence[float]]
    prompts: NDArray[np.int64]

    def ranked(self, where: Mask | None = None) -> Ranked:
        """The shares ranked right of all pairs, or of those in a mask [N]."""
        mask = np.ones(len(self.prompts), dtype=bool) if where is None else where
        groups = len(np.unique(self.prompts[mask]))
        shares: dict[str, Estimate | None] = dict.fromkeys(WAYS)
        for way, gaps in self.gaps.items():
            right = np.array([ranked(gap) for gap in gaps])[mask]
            shares[way] = share_in_groups(float(right.sum()), len(right), groups)
        return Ranked(**shares)  # type: ignore[arg-type]  # `arm` and `longer` always are there


def numbered(prompts: Iterable[str]) -> NDArray[np.int64]:
    """Equal prompts as equal numbers, from 0 in the order in which they come."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(prompt, len(numbers)) for prompt in prompts], np.int64)


def by_subset(judged: Judgements, subsets: Sequence[str]) -> dict[str, Ranked]:
    """Each named subset's shares, in the order in which they come; "" is none's name."""
    names = np.array(subsets, dtype=object)
    return {name: judged.ranked(names == name) for name in dict.fromkeys(subsets) if name}


def mean_of_subsets(subsets: Sequence[Ranked]) -> Ranked:
    """The unweighted mean over subsets, with MOVER's interval (`mean_of_shares`)."""

    def mean(of: Callable[[Ranked], Estimate | None]) -> Estimate | None:
        shares = [each for subset in subsets if (each := of(subset)) is not None]
        return mean_of_shares(shares) if shares else None

    means = {way: mean(lambda each, way=way: getattr(each, way)) for way in WAYS}  # type: ignore[misc]
    return Ranked(**means)  # type: ignore[arg-type]
