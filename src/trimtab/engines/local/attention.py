"""Attention over a slot cache: rows of unequal length, grouped heads without repeating keys.

N rows, T new tokens, L stored positions, H heads, G query heads per key head, D features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

NAME = "trimtab"
_SUPPORTED = {"full_attention", "sliding_attention"}


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface over views of a `SlotCache`.

    The query heads that share a key head are read as further queries of that head, so keys and
    values are never repeated.

    Args:
        module: the attention layer.
        query: [N, G · H, T, D].
        key: [N, H, L, D].
        value: [N, H, L, D].
        attention_mask: [N, 1, T, L], added to the scores.
        scaling: of the scores; 1 / sqrt(D) by default.
        softcap: scores are squashed to ± this (Gemma 2).
        s_aux: a logit per query head that takes attention and gives nothing (gpt-oss).

    Returns:
        [N, T, G · H, D] in the query's type, and no attention weights.
    """
    if attention_mask is None:
        raise ValueError("this model has been taken over by an engine: load it again to run it")
    rows, heads, tokens, _features = query.shape
    groups = heads // key.shape[1]
    dtype, query = query.dtype, query.to(key.dtype)
    query = query.reshape(rows, key.shape[1], groups * tokens, -1)
    if groups > 1 and tokens > 1:
        attention_mask = attention_mask.repeat(1, 1, groups, 1)
    if softcap is None and s_aux is None:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling
        )
    else:
        scores = query @ key.transpose(-1, -2) * (scaling or query.shape[-1] ** -0.5)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        out = _softmax(scores + attention_mask, s_aux, tokens) @ value
    return out.reshape(rows, heads, tokens, -1).transpose(1, 2).contiguous().to(dtype), None


def _softmax(scores: Tensor, sinks: Tensor | None, tokens: int) -> Tensor:
    if sinks is None:
        return scores.float().softmax(-1).to(scores.dtype)
    per_query = sinks.view(1, scores.shape[1], -1, 1).repeat_interleave(tokens, 2)
    sink = per_query.expand(len(scores), -1, -1, -1).to(scores.dtype)
    return torch.cat([scores, sink], -1).float().softmax(-1)[..., :-1].to(scores.dtype)


def masks(config: Any, positions_NT: Tensor, upto: int, dtype: torch.dtype) -> Any:
    """What each new token may look at: one [N, 1, T, upto] mask, or one per kind of layer."""
    kinds = set(getattr(config, "layer_types", None) or ()) or {_only_kind(config)}
    window = getattr(config, "sliding_window", None)
    made = {
        kind: _mask(positions_NT, upto, dtype, window if kind == "sliding_attention" else None)
        for kind in kinds
    }
    return made if len(made) > 1 else next(iter(made.values()))


def _only_kind(config: Any) -> str:
    return "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"


def _mask(positions_NT: Tensor, upto: int, dtype: torch.dtype, window: int | None) -> Tensor:
    at_L = torch.arange(upto, device=positions_NT.device)
    hidden_NTL = at_L > positions_NT[..., None]
    if window is not None:
        hidden_NTL |= at_L <= positions_NT[..., None] - window
    mask = torch.zeros(hidden_NTL.shape, dtype=dtype, device=positions_NT.device)
    return mask.masked_fill_(hidden_NTL, float("-inf"))[:, None]


def reads_slots(lm: Any, parameters: Any) -> bool:
    """Whether a causal LM can run on a slot cache.

    Its attention must go through transformers' interface, take positions from outside, and keep
    nothing but keys and values.
    """
    config = lm.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    kinds |= set(getattr(config, "layers_block_type", None) or ()) - {"attention"}
    return (
        bool(getattr(lm, "_supports_attention_backend", False))
        and "position_ids" in parameters
        and kinds <= _SUPPORTED
        and not getattr(config, "num_kv_shared_layers", None)
        and not getattr(config, "attention_chunk_size", None)
    )


AttentionInterface.register(NAME, attend)
