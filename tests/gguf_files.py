"""Tiny GGUF files, written as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from conftest import make_model, make_tokenizer

Change = Callable[[dict[str, Any]], dict[str, Any]]


def write_gguf(
    path: Path,
    *,
    fields: Mapping[str, Any] | None = None,
    tensors: Change = lambda t: t,
    tokenizer: Any = None,
    seed: int = 1,
    arch: str = "llama",
) -> Any:
    """Write a random Llama; returns the model whose weights the file holds.

    Args:
        path: of the file.
        fields: metadata that are added or changed; None leaves one out.
        tensors: changes the tensors, by their names in the file.
        tokenizer: of `make_tokenizer`.
        seed: of the weights.
        arch: the architecture that the file names.
    """
    import gguf

    tokenizer = tokenizer or make_tokenizer()
    model = make_model(seed, len(tokenizer))
    writer = gguf.GGUFWriter(path, arch)
    for key, value in {**_fields(model, tokenizer, arch), **(fields or {})}.items():
        if value is not None:
            _add(writer, key, value)
    for name, array in tensors(_tensors(model)).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _add(writer: Any, key: str, value: Any) -> None:
    import gguf

    kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING", list: "ARRAY"}
    writer.add_key_value(key, value, gguf.GGUFValueType[kinds[type(value)]])


def _fields(model: Any, tokenizer: Any, arch: str) -> dict[str, Any]:
    config = model.config
    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    ids = {index: token for token, index in tokenizer.get_vocab().items()}
    special = {*tokenizer.all_special_ids}
    own = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": 10000.0,
        "vocab_size": config.vocab_size,
    }
    return {
        "general.name": "tiny",
        **{f"{arch}.{key}": value for key, value in own.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [ids[i] for i in range(len(ids))],
        "tokenizer.ggml.token_type": [3 if i in special else 1 for i in range(len(ids))],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in raw["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.chat_template": tokenizer.chat_template,
    }


def _tensors(model: Any) -> dict[str, Any]:
    heads = model.config.num_attention_heads
    found = {}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            array = _interleaved(array, heads)
        found[_name(name)] = np.ascontiguousarray(array)
    return found


def _interleaved(array: Any, heads: int) -> Any:
    """llama.cpp rotates neighbouring features, transformers those half a head apart."""
    rows = array.shape[0] // heads
    halves = array.reshape(heads, 2, rows // 2, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def _name(name: str) -> str:
    for theirs, ours in (
        ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"),
        ("lm_head", "output"), ("model.layers", "blk"), ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"), ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
    ):  # fmt: skip
        name = name.replace(theirs, ours)
    return name
