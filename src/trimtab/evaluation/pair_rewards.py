"""Rewards of both sides of pairs, summed over tokens and per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from trimtab.data.pairs import Pair
from trimtab.evaluation.subsets import Floats
from trimtab.models.types import PromptFormat

if TYPE_CHECKING:
    from trimtab.arms.reward_model import RewardModel

Rewarding = Literal["sum", "mean", "head"]
"""What a model's own reward is: its tokens' summed, their mean, or a scalar head's value."""


@dataclass(frozen=True)
class PairRewards:
    """Rewards of N pairs, of the better and of the worse side [2, N].

    Attributes:
        kind: what `arm` is.
        arm: as the model was trained.
        summed: over the response's tokens; None for a scalar head.
        per_token: None for a scalar head.
    """

    kind: Rewarding
    arm: Floats
    summed: Floats | None = None
    per_token: Floats | None = None

    @property
    def named(self) -> dict[str, Floats]:
        """Those that there are, as `Ranked` names them."""
        named = {"arm": self.arm, "arm_summed": self.summed, "arm_per_token": self.per_token}
        return {name: rewards for name, rewards in named.items() if rewards is not None}


def pair_rewards(
    model: RewardModel,
    pairs: Sequence[Pair],
    *,
    batch_size: int = 16,
    preference: dict[str, float] | None = None,
) -> PairRewards:
    """Score both sides of every pair.

    Args:
        model: an ARM or a judge.
        pairs: what to score.
        batch_size: rows in one forward pass.
        preference: what a conditioned ARM scores for.

    Raises:
        ModelLoadError: the model gives NaN or an infinite reward.
    """
    sidecar = model.reader.sidecar
    styles: list[PromptFormat] = [
        "raw" if pair.verbatim else sidecar.prompt_format for pair in pairs
    ]
    scored = model.score(
        [pair.prompt for pair in pairs] * 2,
        [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs],
        batch_size=batch_size,
        prompt_format=styles * 2,
        preference=preference,
    )
    own = np.array([each.reward for each in scored]).reshape(2, -1)
    if model.reader.judges:
        return PairRewards("head", own)
    tokens = np.array([max(1, len(each.tokens)) for each in scored], dtype=float).reshape(2, -1)
    if sidecar.length_normalize:
        return PairRewards("mean", own, own * tokens, own)
    return PairRewards("sum", own, own, own / tokens)
