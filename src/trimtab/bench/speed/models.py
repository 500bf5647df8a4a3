"""Models of a given shape with random weights: speed does not depend on what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, replace

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from trimtab.arms.adapter import AdapterWeights, LowRank
from trimtab.arms.conditioned import ConditionedConfig, Core
from trimtab.arms.cores import Mix

SHAPES: dict[str, dict[str, int]] = {
    "5m": {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 672,
           "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 8},
    "350m": {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2816,
             "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 4},
    "7b": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
           "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
}  # fmt: skip
RANK = 8


class Numbers:
    """A tokenizer whose tokens are numbers."""

    eos_token_id = chat_template = None

    def decode(self, ids: Sequence[int], **_: object) -> str:
        """The numbers, each followed by a space."""
        return "".join(f"{i} " for i in ids)


def random_model(shape: str, dtype: torch.dtype, device: str, seed: int = 0) -> LlamaForCausalLM:
    """A Llama of this shape."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **SHAPES[shape],
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # at once in its own type: no second copy is ever made
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def random_lora(model: torch.nn.Module, seed: int) -> AdapterWeights:
    """A LoRA of rank 8 on every linear layer but the LM head."""
    return _adapter(model, seed, LowRank)


def random_conditioned(
    model: torch.nn.Module, seed: int, core: Core, objectives: tuple[str, ...]
) -> AdapterWeights:
    """A conditioned adapter of the same rank on the same layers."""
    config = ConditionedConfig(
        core, objectives, RANK, RANK, 0.0, (), preference_r=RANK // 2, condition_dim=RANK // 2
    )
    torch.manual_seed(seed)
    mixes = Mix(torch.eye(len(objectives)), torch.randn(len(objectives), RANK // 2))

    def term(a: Tensor, b: Tensor) -> LowRank:
        core = config.new_core()
        for weight in core.parameters():
            torch.nn.init.normal_(weight)
        core = core.to(a.device)
        columns = core.columns(a.float(), b.float(), Mix(*(t.to(a.device) for t in astuple(mixes))))
        return LowRank(columns.a.to(a.dtype), columns.b.to(b.dtype), columns.gain, columns.shift)

    with torch.no_grad():
        return replace(_adapter(model, seed, term), objectives=objectives)


def _adapter(
    model: torch.nn.Module, seed: int, term: Callable[[Tensor, Tensor], LowRank]
) -> AdapterWeights:
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            a = 0.02 * torch.randn(RANK, layer.in_features, generator=generator)
            b = 0.02 * torch.randn(layer.out_features, RANK, generator=generator)
            weight = layer.weight
            layers[name] = term(*(t.to(weight.device, weight.dtype) for t in (a, b)))
    return AdapterWeights(layers)
