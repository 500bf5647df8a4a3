"""Defaults that depend on other options."""

from __future__ import annotations

from typing import Any

import pytest

from trimtab.training.config import TrainConfig

UNIARM = {"method": "uniarm", "describe": ["a=one", "b=two"]}


@pytest.mark.parametrize(
    ("options", "beta"),
    [
        ({}, 0.05), ({"method": "parm"}, 0.01), (UNIARM, 0.01), ({"method": "trajectory"}, 1.0),
        ({"length_normalize": True}, 4.0), ({"method": "parm", "length_normalize": True}, 4.0),
        ({"length_normalize": True, "beta": 0.5}, 0.5),
        ({"method": "trajectory", "length_normalize": True}, 1.0),
    ],
)  # fmt: skip
def test_default_beta(options: dict[str, Any], beta: float) -> None:
    """A mean over tokens is a hundredth of a sum, so it counts that much more."""
    config = TrainConfig(model="m", data=["d"], output_dir="o", objectives="a,b", **options)
    assert config.loss_beta("a") == beta
