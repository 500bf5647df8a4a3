"""Log-probs of response tokens, without logits for the prompt.

Only the positions that predict a response token go through the LM head, a chunk at a time, and a
chunk's logits are recomputed in the backward pass: peak memory holds one chunk of [chunk, V].
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trimtab.data.collate import position_ids
from trimtab.errors import ConfigError


def causal_lm(model: Any) -> Any:
    """The transformers causal LM inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def response_logp(
    model: nn.Module, batch: dict[str, Tensor], *, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """Log-probs of every response token of a batch.

    Args:
        model: a causal LM, with or without a PEFT adapter.
        batch: `input_ids`, `attention_mask`, `response_mask`, each [N, T].
        chunk: response tokens that go through the LM head at once.

    Returns:
        `logp_M` float32 and `row_M` int64: one entry per response token, and its row in the batch.
    """
    lm = causal_lm(model)
    body = lm.base_model
    positions: dict[str, Tensor] = {}
    if "position_ids" in inspect.signature(type(body).forward).parameters:  # not with ALiBi
        positions["position_ids"] = position_ids(batch["attention_mask"])
    hidden_NTH = body(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        use_cache=False,
        **positions,
    ).last_hidden_state
    predicts = batch["response_mask"][:, 1:].bool()
    hidden_MH = hidden_NTH[:, :-1][predicts]
    target_M = batch["input_ids"][:, 1:][predicts]
    row_M = predicts.nonzero()[:, 0]
    parts = [
        _chunk_logp(lm, hidden, target)
        for hidden, target in zip(
            torch.split(hidden_MH, chunk), torch.split(target_M, chunk), strict=True
        )
    ]
    return torch.cat(parts), row_M


def _chunk_logp(lm: Any, hidden_MH: Tensor, target_M: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return _target_logp(lm, hidden_MH, target_M)
    logp: Tensor = checkpoint(_target_logp, lm, hidden_MH, target_M, use_reentrant=False)
    return logp


def _target_logp(lm: Any, hidden_MH: Tensor, target_M: Tensor) -> Tensor:
    logits_MV = head_logits(lm, hidden_MH).float()
    return logits_MV.gather(-1, target_M[:, None]).squeeze(-1) - logits_MV.logsumexp(-1)


def head_logits(lm: Any, hidden_MH: Tensor) -> Tensor:
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


@torch.no_grad()
def check_head(model: Any) -> None:
    """Refuse an architecture whose logits are not what `head_logits` computes."""
    lm = causal_lm(model)
    was_training, device = lm.training, next(lm.parameters()).device
    lm.eval()
    ids = torch.arange(4, device=device)[None]
    expected = lm(input_ids=ids, use_cache=False).logits.float()
    hidden = lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
    found = head_logits(lm, hidden).float()
    lm.train(was_training)
    if not torch.allclose(found, expected, atol=1e-2, rtol=1e-2):
        raise ConfigError(
            f"{type(lm).__name__} changes its logits after the LM head in an unknown way",
            "please report this architecture",
        )
