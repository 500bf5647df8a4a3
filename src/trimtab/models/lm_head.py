"""The LM head: from hidden states to logits, as a model's own forward makes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trimtab.models.protocols import CausalLM


def causal_lm(model: Any) -> Any:
    """The transformers causal LM inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def head_logits(lm: CausalLM, hidden_MH: Tensor) -> Tensor:
    """Logits of hidden states as the model's own forward makes them: head, scale, soft cap."""
    logits: Tensor = lm.get_output_embeddings()(hidden_MH)
    config = lm.config.get_text_config()
    if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
        logits = logits * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
        logits = logits / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma
        logits = torch.tanh(logits / cap) * cap
    return logits
