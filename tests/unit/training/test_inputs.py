"""What a training needs before weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import make_tokenizer, save_model

import trimtab
from trimtab.errors import ConfigError


@pytest.fixture
def options(tmp_path: Path, pairs_file: Path) -> dict[str, Any]:
    """Of a training on a model whose tokenizer has no padding token, and no EOS to stand for it."""
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    model = save_model(tmp_path / "base", tokenizer=tokenizer)
    return {
        "model": str(model),
        "data": str(pairs_file),
        "output_dir": str(tmp_path / "arm"),
        "objectives": "helpful",
        "max_steps": 1,
        "eval_strategy": "no",
    }


def test_an_arm_needs_no_padding_token(options: dict[str, Any]) -> None:
    [result] = trimtab.train(**options)
    assert result.metrics["train_loss"] > 0


def test_a_scalar_head_does(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="has no padding token"):
        trimtab.train(**options, method="trajectory")
    assert not Path(options["output_dir"]).exists()
