"""What an export makes: a preference folded into factors, as a LoRA folder or a whole model.

For one preference p the cores fold into B (design.md §4): PARM is exactly a LoRA with
`lora_A = A`, `lora_B = [B1 W1, B2 W2(p)]`; UniARM is `B diag(1 + γ)` and, with its shift, a bias
`B δ`, which PEFT holds as `lora_bias` and other formats may not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, TaskType
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trimtab.arms.adapter import LORA_A, LORA_B, LORA_BIAS, PREFIX, WEIGHTS
from trimtab.arms.conditioned import ConditionedConfig
from trimtab.arms.conditioned_files import VECTORS, layer_core, read_folder
from trimtab.arms.cores import Mix
from trimtab.arms.load import config_of, load_backbone
from trimtab.arms.objectives import is_conditioned
from trimtab.arms.peft_adapter import with_adapter
from trimtab.arms.sidecar import require_base
from trimtab.errors import ConfigError
from trimtab.models.folder import adapter_config
from trimtab.models.protocols import Config
from trimtab.steering import Steering

Folded = dict[str, tuple[Tensor, Tensor, Tensor | None]]
"""Layer name -> A [R, in], folded B [out, R], bias [out] or None; all before the scaling."""


@torch.no_grad()
def fold(arm: str, preference: str) -> Folded:
    """The factors of every adapted layer with a preference folded in."""
    config, tensors = read_folder(arm)
    weights = Steering.of(config.objectives, preference).preference
    p_1K = torch.tensor([[*weights.values()]], dtype=torch.float32)
    vectors = tensors.get(VECTORS, torch.zeros(len(config.objectives), 0))
    mix = Mix(p_1K, p_1K @ vectors)
    folded: Folded = {}
    for key in [key for key in tensors if key.endswith(LORA_A)]:
        stem = key.removesuffix(LORA_A)
        core = layer_core(config, tensors, stem)
        b_OR, bias = core.fold(tensors[f"{stem}{LORA_B}"], mix)
        folded[stem.removeprefix(PREFIX)] = tensors[key], b_OR.contiguous(), bias
    return folded


def save_lora(arm: str, preference: str, folder: Path) -> None:
    """A folder as PEFT writes it."""
    config, folded = ConditionedConfig.load(arm), fold(arm, preference)
    short = {name.rpartition(".")[2] for name in folded}
    by_short = all("." not in target for target in config.target_modules)
    skeleton = _skeleton(config_of(require_base(arm)))
    has_bias = any(bias is not None for _, _, bias in folded.values())
    LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=sorted(short if by_short else folded),
        lora_bias=has_bias,
        fan_in_fan_out=any(isinstance(skeleton.get_submodule(n), Conv1D) for n in folded),
        inference_mode=True,
    ).save_pretrained(str(folder))
    tensors: dict[str, Tensor] = {}
    for name, (a, b, bias) in folded.items():
        tensors |= {f"{PREFIX}{name}{LORA_A}": a, f"{PREFIX}{name}{LORA_B}": b}
        if bias is not None:
            tensors[f"{PREFIX}{name}{LORA_BIAS}"] = bias
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


@torch.no_grad()
def merged(arm: str, preference: str) -> Any:
    """The backbone with `s B A` added to its weights, and `s` times the bias to its biases."""
    if not is_conditioned(arm):
        if adapter_config(arm).get("lora_bias"):
            raise ConfigError(
                f"the LoRA {arm} has a bias, which PEFT cannot merge",
                "export the UniARM that it comes from with --merge",
            )
        return with_adapter(_own_dtype(arm), arm).merge_and_unload()
    folded, scaling = fold(arm, preference), ConditionedConfig.load(arm).scaling
    model = _own_dtype(arm)
    if any(bias is not None for _, _, bias in folded.values()):
        model = _with_biases(model, list(folded))
    for name, (a, b, bias) in folded.items():
        layer = model.get_submodule(name)
        update = scaling * (b @ a)
        update = update.t() if isinstance(layer, Conv1D) else update
        layer.weight.data = (layer.weight.float() + update).to(layer.weight.dtype)
        if bias is not None:
            layer.bias.data = (layer.bias.float() + scaling * bias).to(layer.bias.dtype)
    return model


def _own_dtype(arm: str) -> Any:
    """The backbone of an ARM, in the type of its checkpoint."""
    dtype = str(getattr(config_of(arm), "dtype", None)).removeprefix("torch.")
    return load_backbone(arm, dtype=dtype if dtype in ("bfloat16", "float16") else "float32")


def _with_biases(model: Any, names: list[str]) -> Any:
    """The model with a (zero) bias on these layers.

    Raises:
        ConfigError: its architecture has no such biases.
    """
    config = model.config
    for flag in ("attention_bias", "mlp_bias"):
        if _without_bias(model, names) and getattr(config, flag, None) is False:
            before = len(_without_bias(_skeleton(config), names))
            setattr(config, flag, True)
            setattr(config, flag, len(_without_bias(_skeleton(config), names)) < before)
    left = _without_bias(_skeleton(config), names)
    if left:
        raise ConfigError(
            f"UniARM's shift needs a bias, and {left[0]} of this architecture has none",
            "export a LoRA folder (leave out --merge), or train with --no-shift",
        )
    if not _without_bias(model, names):
        return model
    biased = transformers.AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    for name, parameter in biased.named_parameters():
        if name.endswith(".bias"):
            nn.init.zeros_(parameter)
    biased.load_state_dict(model.state_dict(), strict=False)
    biased.generation_config = model.generation_config
    return biased


def _without_bias(model: Any, names: list[str]) -> list[str]:
    return [name for name in names if model.get_submodule(name).bias is None]


def _skeleton(config: Config) -> Any:
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)
