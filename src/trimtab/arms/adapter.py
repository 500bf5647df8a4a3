"""Low-rank adapters as plain tensors, `y = W x + s · B (A x)`, read from a PEFT LoRA folder.

R rank, in/out features of one linear layer. `s` is folded into B when it is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from trimtab.arms.folder import read_json

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_BEYOND_PLAIN = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "modules_to_save", "layer_replication",
    "alpha_pattern", "target_parameters", "trainable_token_indices", "alora_invocation_tokens",
    "arrow_config", "velora_config", "kasa_config", "monteclora_config",
)  # fmt: skip


@dataclass(frozen=True)
class LoraWeights:
    """One adapter: layer name -> (A [R, in], s · B [out, R])."""

    layers: Mapping[str, tuple[Tensor, Tensor]]


def read_lora(folder: str, *, dtype: torch.dtype, device: str) -> LoraWeights | None:
    """Read a PEFT folder; None when it holds more than plain LoRA on linear layers.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        dtype: of the tensors.
        device: where to put them.
    """
    config = read_json(Path(folder) / "adapter_config.json")
    if not _is_plain(config):
        return None
    tensors = load_file(Path(folder) / "adapter_model.safetensors", device=device)
    layers = {}
    for key in [key for key in tensors if key.endswith(_A)]:
        a, b = tensors.pop(key), tensors.pop(key.removesuffix(_A) + _B, None)
        if b is None or ".experts." in key:  # experts see their tokens out of order
            return None
        scale = config["lora_alpha"] / (math.sqrt(len(a)) if config.get("use_rslora") else len(a))
        name = key.removeprefix(_PREFIX).removesuffix(_A)
        layers[name] = (a.to(dtype), (scale * b.float()).to(dtype))
    return None if tensors else LoraWeights(layers)


def _is_plain(config: dict[str, Any]) -> bool:
    plain = config.get("peft_type") == "LORA" and config.get("bias", "none") == "none"
    return plain and not any(config.get(option) for option in _BEYOND_PLAIN)
