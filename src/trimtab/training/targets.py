"""Which layers get a LoRA, checked on the architecture alone before a weight is loaded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from trimtab.errors import ConfigError
from trimtab.models.protocols import Config

_ATTENTION = (
    ["q_proj", "k_proj", "v_proj"],
    ["query_key_value"],
    ["c_attn"],
    ["qkv_proj"],
    ["Wqkv"],
)


def lora_targets(
    config: Config, wanted: Sequence[str], *, trust_remote_code: bool = False
) -> list[str] | str:
    """Names of the layers that get a LoRA.

    Args:
        config: the model's transformers config.
        wanted: layer names, or `["all-linear"]`, or nothing for the attention's q, k and v.
        trust_remote_code: run model code that comes with the checkpoint.

    Raises:
        ConfigError: a name that matches no linear layer.
    """
    if list(wanted) == ["all-linear"]:
        return "all-linear"
    names = _linear_names(config, trust_remote_code)
    if not wanted:
        attention = next((group for group in _ATTENTION if set(group) <= names), None)
        if attention is None:
            raise ConfigError(
                f"no known attention projections in a {config.model_type} model",
                f"name layers with --lora-target-modules; there are: {', '.join(sorted(names))}",
            )
        return attention
    for target in wanted:
        if not any(name == target or target.endswith(f".{name}") for name in names):
            raise ConfigError(
                f"--lora-target-modules {target} matches no layer of the model",
                f"there are: {', '.join(sorted(names))}",
            )
    return list(wanted)


def _linear_names(config: Config, trust_remote_code: bool) -> set[str]:
    with torch.device("meta"):
        skeleton = transformers.AutoModelForCausalLM.from_config(
            config, trust_remote_code=trust_remote_code
        )
    layers = {
        name.rsplit(".", 1)[-1]
        for name, module in skeleton.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    return layers - {"lm_head"}
