"""One rule for every accuracy: a tie counts one half."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

from trimtab.arms.reward_model import Scored
from trimtab.arms.sidecar import Sidecar
from trimtab.data.pairs import Pair
from trimtab.evaluation.floors import longer_is_better
from trimtab.evaluation.pair_rewards import pair_rewards
from trimtab.evaluation.subsets import Judgements, numbered
from trimtab.stats import ranked, ranked_right
from trimtab.training.trainer import pair_metrics

REWARDS = [(2.0, 1.0), (1.0, 1.0), (0.0, 3.0), (-1.0, -1.0)]  # right, a tie, wrong, a tie: 2 of 4


def test_a_tie_counts_one_half() -> None:
    assert ranked_right(a - b for a, b in REWARDS) == 2.0
    assert ranked_right([]) == 0
    assert math.isnan(ranked_right([1.0, math.nan]))
    assert ranked_right([math.inf, -math.inf]) == 1.0
    assert [ranked(gap) for gap in (0.5, 0, -0.0, -2)] == [1.0, 0.5, 0.5, 0.0]
    assert math.isnan(ranked(math.nan))


def test_training_and_measuring_count_alike() -> None:
    assert pair_metrics(np.array(REWARDS, dtype=np.float32))["accuracy"] == 0.5

    class Model:
        reader = SimpleNamespace(sidecar=Sidecar(prompt_format="raw"), judges=True)

        def score(self, prompts: list[str], texts: list[str], **_: object) -> list[Scored]:
            return [Scored(float(text)) for text in texts]

    pairs = [Pair("x", str(a), str(b)) for a, b in REWARDS]
    better, worse = pair_rewards(Model(), pairs).arm  # type: ignore[arg-type]
    prompts = numbered(str(i) for i in range(4))
    assert Judgements({"arm": better - worse, "longer": [0] * 4}, prompts).ranked().arm.value == 0.5
    assert longer_is_better(pairs) == 2.0  # both sides of each are as long: four ties


def test_a_model_of_no_numbers_has_no_accuracy() -> None:
    assert math.isnan(pair_metrics(np.array([[math.nan, 1.0]]))["accuracy"])
