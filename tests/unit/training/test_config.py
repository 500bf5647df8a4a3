"""Defaults that depend on other options."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trimtab.errors import ConfigError
from trimtab.training.betas import loss_beta
from trimtab.training.config import TrainConfig
from trimtab.training.run import train

UNIARM = {"method": "uniarm", "describe": ["a=one", "b=two"]}


@pytest.mark.parametrize(
    ("options", "beta"),
    [
        ({}, 0.05), ({"method": "parm"}, 0.01), (UNIARM, 0.01), ({"method": "trajectory"}, 1.0),
        ({"length_normalize": True}, 4.0), ({"method": "parm", "length_normalize": True}, 4.0),
        ({"length_normalize": True, "beta": 0.5}, 0.5),
        ({"method": "trajectory", "length_normalize": True}, 1.0),
        ({"reference": "start"}, 0.1), ({"method": "dpo"}, 0.1), ({"reward_head": "linear"}, 0.05),
        ({"reference": "start", "length_normalize": True}, 4.0),
    ],
)  # fmt: skip
def test_default_beta(options: dict[str, Any], beta: float) -> None:
    """A mean over tokens is a hundredth of a sum, so it counts that much more."""
    config = TrainConfig(model="m", data=["d"], output_dir="o", objectives="a,b", **options)
    assert loss_beta(config, "a") == beta


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 0}, {"max_steps": -2}, {"save_steps": 0}, {"eval_steps": 0},
        {"logging_steps": 0}, {"eval_steps": math.nan}, {"warmup_steps": -1},
        {"lora_dropout": 1.0}, {"lora_dropout": -0.1}, {"lora_alpha": math.nan},
        {"lora_alpha": 0}, {"scale": math.nan}, {"scale": math.inf}, {"scale": 0},
        {"margin": math.inf}, {"margin": math.nan}, {"weight_decay": math.nan},
        {"max_grad_norm": math.nan}, {"save_total_limit": -1}, {"learning_rate": math.inf},
        {"preference_alpha": math.inf, "method": "parm"}, {"beta": math.nan},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_that_mean_nothing(options: dict[str, Any]) -> None:
    """Each would end in a hang, in NaN, or in other steps than were asked for."""
    name, value = next(iter(options.items()))
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} is {value}; it must be"):
        train(model="m", data=["d"], output_dir="o", objectives="a,b", **options)
