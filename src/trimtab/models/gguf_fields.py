"""The fields of a GGUF file, and whether a config says the same.

llama.cpp's names are documented in its GGUF specification. Every field about the architecture has
to be found in the config that transformers made of the file; one that is not known here counts as
unread, because it may change what the model computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trimtab.errors import ModelLoadError, first_line

Fields = Mapping[str, Any]
_LONG = ("tokenizer.ggml.merges", "tokenizer.ggml.scores")


def read_fields(path: Path) -> dict[str, Any]:
    """Key -> value of all metadata but merges and scores.

    Raises:
        ModelLoadError: a damaged file, one part of several, or no whole model.
    """
    from gguf import GGUFReader

    try:
        fields = {k: f.contents() for k, f in GGUFReader(path).fields.items() if k not in _LONG}
    except Exception as error:  # of a truncated file: numpy's, struct's, unicode's
        raise ModelLoadError(
            f"{path} is damaged ({first_line(error)})", "download it again"
        ) from error
    if fields.get("split.count", 1) > 1:
        raise ModelLoadError(
            f"{path} is one part of {fields['split.count']}", "merge the parts first"
        )
    if fields.get("general.type", "model") != "model":
        raise ModelLoadError(
            f"{path} holds no model but a {fields['general.type']}", "name a model"
        )
    return fields


def unread_fields(fields: Fields, config: Any) -> list[str]:
    """What a file says of its architecture and the config does not, as `key = value`."""
    prefix = f"{fields.get('general.architecture')}."
    architecture = {k.removeprefix(prefix): v for k, v in fields.items() if k.startswith(prefix)}
    text = config.get_text_config()
    unread = [f"{prefix}{k} = {v}" for k, v in architecture.items() if not _agrees(k, v, text)]
    if "attention.head_count_kv" not in architecture and "num_key_value_heads" in text.to_dict():
        # all heads, says the format; the reader then leaves the keys in llama.cpp's order
        unread.append("nothing of attention.head_count_kv")
    scale = getattr(text, "query_pre_attn_scalar", None)
    if scale is not None and scale != text.head_dim and "attention.scale" not in architecture:
        # Gemma's 27 B models; llama.cpp knows them by their size, the file does not say it
        unread.append(f"nothing of query_pre_attn_scalar (heads of {text.head_dim})")
    return unread


def _agrees(name: str, value: Any, config: Any) -> bool:
    if name in _HARMLESS:
        return True
    rule = _RULES.get(name)
    if rule is None:
        return False
    wanted = rule(config)
    if name == "rope.scaling.type":
        return value in ("none", "") if wanted == "default" else bool(value == wanted)
    return (
        any(_same(value, w) for w in wanted) if isinstance(wanted, tuple) else _same(value, wanted)
    )


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, list):
        return _same(max(value), wanted)  # per layer; zero for layers without
    if isinstance(value, bool) or isinstance(wanted, bool):
        return bool(value) == bool(wanted)
    if not isinstance(value, int | float) or not isinstance(wanted, int | float):
        return bool(value == wanted)
    return math.isclose(value, wanted, rel_tol=1e-5)  # files hold float32


def _first(*names: str) -> Callable[[Any], Any]:
    """The first of some attributes that a config has."""
    return lambda config: next(
        (v for n in names if (v := getattr(config, n, None)) is not None), None
    )


def _rope(config: Any, kind: str = "full_attention") -> dict[str, Any]:
    rope = getattr(config, "rope_parameters", None) or {}
    return dict(rope.get(kind, rope))


def _rope_value(
    name: str, default: Any = None, kind: str = "full_attention"
) -> Callable[[Any], Any]:
    return lambda config: _rope(config, kind).get(name, default)


def _head_dim(config: Any) -> Any:
    head_dim = getattr(config, "head_dim", None)
    return head_dim or config.hidden_size // config.num_attention_heads


def _rotary(config: Any) -> Any:
    share = _rope(config).get("partial_rotary_factor") or getattr(
        config, "partial_rotary_factor", 1
    )
    return int(_head_dim(config) * (share or 1))


_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")
_RULES: dict[str, Callable[[Any], Any]] = {
    "context_length": _first("max_position_embeddings", "n_positions", "n_ctx", "seq_length"),
    "embedding_length": _first("hidden_size", "n_embd"),
    "block_count": _first("num_hidden_layers", "n_layer"),
    "feed_forward_length": lambda c: (
        _first("intermediate_size", "n_inner", "ffn_hidden_size")(c),
        4 * c.hidden_size,
    ),
    "vocab_size": _first("vocab_size"),
    "attention.head_count": _first("num_attention_heads", "n_head"),
    "attention.head_count_kv": _first("num_key_value_heads", "num_kv_heads", "num_attention_heads"),
    "attention.key_length": _head_dim,
    "attention.value_length": _head_dim,
    "attention.layer_norm_rms_epsilon": _first(*_EPSILONS),
    "attention.layer_norm_epsilon": _first(*_EPSILONS),
    "attention.sliding_window": _first("sliding_window"),
    "attention.causal": lambda _: True,
    "attention.scale": lambda c: getattr(c, "query_pre_attn_scalar", _head_dim(c)) ** -0.5,
    "attn_logit_softcapping": _first("attn_logit_softcapping"),
    "final_logit_softcapping": _first("final_logit_softcapping"),
    "logit_scale": _first("logit_scale", "logits_scaling"),
    "residual_scale": _first("residual_multiplier"),
    "embedding_scale": _first("embedding_multiplier"),
    "use_parallel_residual": _first("use_parallel_residual"),
    "rope.dimension_count": _rotary,
    "rope.freq_base": _rope_value("rope_theta"),
    "rope.freq_base_swa": _rope_value("rope_theta", kind="sliding_attention"),
    "rope.scaling.type": _rope_value("rope_type", "default"),
    "rope.scaling.factor": _rope_value("factor", 1.0),
    "rope.scaling.attn_factor": _rope_value("attention_factor", 1.0),
    "rope.scaling.original_context_length": _rope_value("original_max_position_embeddings"),
    "rope.scale_linear": _rope_value("factor", 1.0),
    "expert_count": _first("num_experts", "num_local_experts", "n_routed_experts"),
    "expert_used_count": _first("num_experts_per_tok"),
    "expert_feed_forward_length": _first("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": _first("shared_expert_intermediate_size"),
    "shortconv.l_cache": _first("conv_L_cache"),
    "ssm.conv_kernel": _first("conv_kernel", "linear_conv_kernel_dim"),
    "ssm.state_size": _first("state_size", "linear_key_head_dim"),
    "ssm.inner_size": _first("intermediate_size"),
    "ssm.time_step_rank": _first("time_step_rank", "linear_num_value_heads"),
}
"""Field -> what the config says of it; a tuple where either of two is right."""
_HARMLESS = {
    "rope.scaling.finetuned",  # says how the model was trained, not what it computes
    "tensor_data_layout",  # of the file; the reader undoes it
}
