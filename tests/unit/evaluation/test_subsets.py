"""Accuracy in parts of the data."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from trimtab.arms.reward_model import Scored
from trimtab.arms.sidecar import Sidecar
from trimtab.data.pairs import Pair
from trimtab.evaluation.pair_rewards import pair_rewards
from trimtab.evaluation.subsets import Judgements, by_subset, mean_of_subsets, numbered
from trimtab.stats import share, share_in_groups

SUBSETS = ["easy", "hard", "easy", "", "hard", "easy"]
JUDGED = Judgements(
    {"arm": [1, -1, 2, -3, 0, -1], "longer": [1, 1, 1, 1, -1, -1]},
    numbered(["a", "b", "a", "c", "d", "e"]),
)


def test_subsets_by_hand() -> None:
    """easy: 2 of 3, of two prompts; hard: a wrong one and a tie, ½ of 2; the pair of no subset
    counts in all pairs only."""
    found = by_subset(JUDGED, SUBSETS)
    assert list(found) == ["easy", "hard"]
    assert found["easy"].arm == share_in_groups(2, 3, 2)
    assert (found["hard"].arm, found["hard"].longer) == (share(0.5, 2), share(1, 2))
    assert found["hard"].bag_of_words is None is found["hard"].arm_per_token
    mean = mean_of_subsets(list(found.values()))
    assert mean.arm.value == pytest.approx((2 / 3 + 1 / 4) / 2) and mean.arm.n == 5
    assert mean.bag_of_words is None
    assert JUDGED.ranked().arm == share_in_groups(2.5, 6, 5)
    assert JUDGED.ranked(np.array([True] + [False] * 5)).arm == share(1, 1)


@pytest.mark.parametrize("length_normalize", [False, True])
def test_rewards_summed_and_per_token(length_normalize: bool) -> None:
    """Two tokens of −1 against one of −1.5: −2 < −1.5 summed, −1 > −1.5 per token."""
    tokens = {"two": [-1.0, -1.0], "one": [-1.5]}

    class Arm:
        reader = SimpleNamespace(sidecar=Sidecar(length_normalize=length_normalize))

        def score(self, prompts: list[str], texts: list[str], **_: object) -> list[Scored]:
            means = [np.mean(tokens[t]) if length_normalize else sum(tokens[t]) for t in texts]
            return [
                Scored(float(mean), ["t"] * len(tokens[t]), tokens[t])
                for mean, t in zip(means, texts, strict=True)
            ]

    found = pair_rewards(Arm(), [Pair("x", "two", "one")])  # type: ignore[arg-type]
    assert found.summed is not None and found.summed.tolist() == [[-2.0], [-1.5]]
    assert found.per_token is not None and found.per_token.tolist() == [[-1.0], [-1.5]]
    assert found.kind == ("mean" if length_normalize else "sum")
    assert found.arm is (found.per_token if length_normalize else found.summed)


def test_a_scalar_head_has_no_reward_per_token() -> None:
    class Judge:
        reader = SimpleNamespace(sidecar=Sidecar(method="trajectory"))

        def score(self, prompts: list[str], texts: list[str], **_: object) -> list[Scored]:
            return [Scored(float(len(text))) for text in texts]

    found = pair_rewards(Judge(), [Pair("x", "two", "o")])  # type: ignore[arg-type]
    assert (found.kind, list(found.named)) == ("head", ["arm"])
    assert found.arm.tolist() == [[3.0], [1.0]]
