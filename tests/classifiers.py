"""Tiny sequence classifiers, as reward models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from conftest import make_tokenizer


def classifier(labels: int = 1, seed: int = 0, pad: int | None = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(make_tokenizer()), hidden_size=16, intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=256,
        initializer_range=0.3, pad_token_id=pad, bos_token_id=None, eos_token_id=3,
        num_labels=labels, **options,
    )  # fmt: skip
    return transformers.LlamaForSequenceClassification(config).eval()


def saved(folder: Path, model: Any, tokenizer: Any = None) -> str:
    model.save_pretrained(folder)
    (tokenizer or make_tokenizer()).save_pretrained(folder)
    return str(folder)


def encoder() -> Any:
    """Its head is on the first token, which sees all others."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(make_tokenizer()), hidden_size=16, intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=256,
        initializer_range=0.3, pad_token_id=0, num_labels=1,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).eval()
