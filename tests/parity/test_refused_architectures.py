"""Architectures that cannot be decoded here: refused in one line when they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from conftest import make_tokenizer

import trimtab
from trimtab.errors import ConfigError

WIDE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
HEADS: dict[str, Any] = {"num_attention_heads": 4}
GPT: dict[str, Any] = {"n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4}
MODELS: dict[str, Callable[[int], Any]] = {
    "openai-gpt": lambda v: hf.OpenAIGPTLMHeadModel(hf.OpenAIGPTConfig(vocab_size=v, **GPT)),
    "rwkv": lambda v: hf.RwkvForCausalLM(
        hf.RwkvConfig(vocab_size=v, attention_hidden_size=32, context_length=128, **WIDE)
    ),
    "big_bird": lambda v: hf.BigBirdForCausalLM(
        hf.BigBirdConfig(
            vocab_size=v, is_decoder=True, attention_type="original_full", **WIDE, **HEADS
        )
    ),
    "bert that looks ahead": lambda v: hf.BertLMHeadModel(
        hf.BertConfig(vocab_size=v, **WIDE, **HEADS)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_refused(name: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = MODELS[name](len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=type(model).__name__):
        trimtab.load(str(tmp_path))
