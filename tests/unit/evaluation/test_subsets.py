"""Accuracy in parts of the data."""

from __future__ import annotations

import numpy as np
import pytest

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
