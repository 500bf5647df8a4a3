"""Rewards of pairs, summed and per token, against what `score` says of every token."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from classifiers import classifier, saved

from trimtab.arms.reward_model import RewardModel
from trimtab.arms.sidecar import Sidecar
from trimtab.data.pairs import Pair
from trimtab.evaluation.pair_rewards import pair_rewards

PAIRS = [
    Pair("the cat", "happy happy the dog", "sad"),
    Pair("the dog", "yes", "no no no please thank you"),
    Pair("the cat 1", " sat", " ran on", verbatim=True),
]


def test_summed_and_per_token(arm_dir: Path, tmp_path: Path) -> None:
    model = RewardModel(str(arm_dir))
    found = pair_rewards(model, PAIRS)
    assert found.kind == "sum" and found.summed is found.arm and found.per_token is not None
    for i, pair in enumerate(PAIRS):
        for side, text in enumerate((pair.chosen, pair.rejected)):
            style = "raw" if pair.verbatim else None
            [scored] = model.score([pair.prompt], [text], prompt_format=style)
            rewards = list(scored.token_rewards)
            assert found.arm[side, i] == pytest.approx(sum(rewards), abs=1e-4)
            assert found.per_token[side, i] == pytest.approx(np.mean(rewards), abs=1e-4)
    by_sum, by_token = (gaps[0] > gaps[1] for gaps in (found.summed, found.per_token))
    assert (by_sum != by_token).any()  # or the two could be one another

    folder = tmp_path / "mean"  # the same weights, trained to a mean
    shutil.copytree(arm_dir, folder)
    dataclasses.replace(Sidecar.load(arm_dir), length_normalize=True).save(folder)
    mean = pair_rewards(RewardModel(str(folder)), PAIRS)
    assert mean.kind == "mean" and mean.per_token is mean.arm and mean.summed is not None
    np.testing.assert_allclose(mean.arm, found.per_token, atol=1e-4)
    np.testing.assert_allclose(mean.summed, found.summed, atol=1e-3)


def test_a_scalar_head_has_none_per_token(tmp_path: Path) -> None:
    model = RewardModel(saved(tmp_path / "head", classifier()))
    found = pair_rewards(model, PAIRS[:2])
    assert found.kind == "head" and list(found.named) == ["arm"]
    [scored] = model.score([PAIRS[1].prompt], [PAIRS[1].rejected])
    assert found.arm[1, 1] == pytest.approx(scored.reward, abs=1e-5)
