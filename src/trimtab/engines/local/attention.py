"""Attention over packed rows of unequal length: grouped heads without repeating keys.

M new tokens, R rows of T tokens each in one run, L stored positions, H heads, G query heads per key
head, D features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from trimtab.engines.local.cache import FULL, SLIDING, Run, Sight

NAME = "trimtab"


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
    """transformers' attention interface over what a `PackedCache` stores, these tokens' included.

    The query heads that share a key head are read as further queries of that head, so keys and
    values are never repeated.

    Args:
        module: the attention layer.
        query: [1, G · H, M, D].
        key: of the new tokens alone, [1, H, M, D].
        value: likewise.
        attention_mask: a `Sight`.
        scaling: of the scores; 1 / sqrt(D) by default.
        softcap: scores are squashed to ± this (Gemma 2).
        s_aux: a logit per query head that takes attention and gives nothing (gpt-oss).

    Returns:
        [1, M, G · H, D] in the query's type, and no attention weights.
    """
    if not isinstance(attention_mask, Sight):
        raise ValueError("this model has been taken over by an engine: load it again to run it")
    cache, kind = attention_mask.cache, attention_mask.kind
    cache.write(key, value)
    query_M = query[0].to(cache.dtype)
    outs = [
        _attend(run, query_M[:, run.start : run.stop], cache.layer, kind, scaling, softcap, s_aux)
        for run in cache.runs
    ]
    out = outs[0] if len(outs) == 1 else torch.cat(outs)
    return out[None].to(query.dtype), None


def _attend(
    run: Run,
    query: Tensor,
    layer: int,
    kind: str,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """One run: [G · H, R · T, D] to [R · T, G · H, D]."""
    rows, tokens, upto = len(run.befores), run.count, run.upto
    slots = slice(run.first, run.first + rows)
    key = run.shelf.keys[layer][slots, :upto].transpose(1, 2)
    value = run.shelf.values[layer][slots, :upto].transpose(1, 2)
    heads, groups = key.shape[1], query.shape[0] // key.shape[1]
    mask = run.masks[kind]
    # [H, G, R, T, D] -> [R, H, G · T, D]
    query = query.reshape(heads, groups, rows, tokens, -1).permute(2, 0, 1, 3, 4).flatten(2, 3)
    if groups > 1 and tokens > 1 and mask is not None:
        mask = mask.repeat(1, 1, groups, 1)
    if softcap is None and sinks is None:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling
        )
    else:
        scores = query @ key.transpose(-1, -2) * (scaling or query.shape[-1] ** -0.5)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if mask is not None:
            scores = scores + mask
        out = _softmax(scores, sinks, tokens) @ value
    # [R, H, G, T, D] -> [R, T, H, G, D]
    out = out.view(rows, heads, groups, tokens, -1).permute(0, 3, 1, 2, 4)
    return out.reshape(rows * tokens, heads * groups, -1)


def _softmax(scores: Tensor, sinks: Tensor | None, tokens: int) -> Tensor:
    if sinks is None:
        return scores.float().softmax(-1).to(scores.dtype)
    per_query = sinks.view(1, scores.shape[1], -1, 1).repeat_interleave(tokens, 2)
    sink = per_query.expand(len(scores), -1, -1, -1).to(scores.dtype)
    return torch.cat([scores, sink], -1).float().softmax(-1)[..., :-1].to(scores.dtype)


def take_over(lm: Any) -> None:
    """Let all of a model's layers attend here, those, too, whose config is a copy (PEFT's)."""
    lm.set_attn_implementation(NAME)
    for module in lm.modules():
        config = getattr(module, "config", None)
        if config is not None and getattr(config, "_attn_implementation", NAME) != NAME:
            config._attn_implementation = NAME


def kinds_of(config: Any) -> list[str]:
    """Kinds of attention that a model's layers have."""
    kinds = set(getattr(config, "layer_types", None) or ())
    return sorted(kinds) or [SLIDING if getattr(config, "sliding_window", None) else FULL]


def is_packable(lm: Any, parameters: Any) -> bool:
    """Whether a causal LM can run packed rows on shelves.

    Its attention must go through transformers' interface, take positions from outside, and keep
    nothing but keys and values.
    """
    config = lm.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    kinds |= set(getattr(config, "layers_block_type", None) or ()) - {"attention"}
    return (
        bool(getattr(lm, "_supports_attention_backend", False))
        and "position_ids" in parameters
        and kinds <= {FULL, SLIDING}
        and not getattr(config, "num_kv_shared_layers", None)
        and not getattr(config, "attention_chunk_size", None)
    )


AttentionInterface.register(NAME, attend)
