"""A conditioned ARM at one preference, as a standard LoRA folder or a whole model.

For one preference p the cores fold into B (design.md §4): PARM is exactly a LoRA with
`lora_A = A`, `lora_B = [B1 W1, B2 W2(p)]`; UniARM is `B diag(1 + γ)` and, with its shift, a bias
`B δ`, which PEFT holds as `lora_bias` and other formats may not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, TaskType
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import trimtab
from trimtab.arms.card import model_card
from trimtab.arms.conditioned import ConditionedConfig
from trimtab.arms.conditioned_files import (
    LORA_A,
    LORA_B,
    PREFIX,
    VECTORS,
    WEIGHTS,
    layer_core,
    read_folder,
)
from trimtab.arms.cores import Mix
from trimtab.arms.folder import fetch, is_adapter, is_conditioned, read_json
from trimtab.arms.load import (
    arm_facts,
    load_config,
    load_model,
    load_tokenizer,
    require_base,
    with_adapter,
)
from trimtab.arms.sidecar import Sidecar
from trimtab.errors import ConfigError
from trimtab.files import OTHER_MODEL, require_fresh, whole_directory
from trimtab.steering import PreferenceLike, Steering

Folded = dict[str, tuple[Tensor, Tensor, Tensor | None]]
"""Layer name -> A [R, in], folded B [out, R], bias [out] or None; all before the scaling."""


def export_arm(
    arm: str,
    output_dir: str | Path,
    *,
    preference: PreferenceLike | None = None,
    merge: bool = False,
    overwrite: bool = False,
) -> str:
    """Write an ARM at one preference as a folder that needs nothing of Trimtab.

    Args:
        arm: folder or hub id of a conditioned ARM; with `merge`, of any LoRA ARM.
        output_dir: where the folder goes.
        preference: what the ARM is fixed at; needed for a conditioned ARM.
        merge: write a whole model instead of a LoRA.
        overwrite: allow an output directory that is not empty.

    Returns:
        The folder.

    Raises:
        PreferenceError, ConfigError: no preference, nothing to export, or a bias that the model
            has no place for.
    """
    arm, folder = fetch(str(arm)), Path(output_dir)
    facts = arm_facts(arm)
    if not is_adapter(arm):
        raise ConfigError(f"{arm} is a whole model", "there is nothing to export")
    if not is_conditioned(arm) and not merge:
        raise ConfigError(f"{arm} is a standard LoRA folder", "add --merge to make a whole model")
    text = _fixed(arm, preference)
    require_fresh(folder, overwrite=overwrite)
    if folder.resolve() in (Path(arm).resolve(), Path(require_base(arm)).resolve()):
        raise ConfigError(f"{folder} is what is exported", "choose another --output-dir")
    if text:
        names = "+".join(ConditionedConfig.load(arm).objectives)
        facts = replace(facts, objective=names, preference=text)
    model = _merged(arm, text) if merge else None  # refused before anything is written
    with whole_directory(folder, OTHER_MODEL) as staging:
        if model is not None:
            model.save_pretrained(staging)
        else:
            _save_lora(arm, text, staging)
        _save_rest(arm, facts, staging, is_lora=not merge)
    return str(folder)


def _fixed(arm: str, preference: PreferenceLike | None) -> str:
    """The preference as text, checked; "" for a plain LoRA."""
    if not is_conditioned(arm):
        if preference is not None:
            raise ConfigError(f"{arm} takes no preference", "leave --preference out")
        return ""
    objectives = ConditionedConfig.load(arm).objectives
    if preference is None:
        example = ",".join(f"{name}={1 / len(objectives):.2g}" for name in objectives)
        raise ConfigError("no preference to export at", f"write --preference {example}")
    weights = Steering.of(objectives, preference).preference
    return ",".join(f"{name}={weight!r}" for name, weight in weights.items())


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


def _save_lora(arm: str, preference: str, folder: Path) -> None:
    """A folder as PEFT writes it."""
    config, folded = ConditionedConfig.load(arm), fold(arm, preference)
    short = {name.rpartition(".")[2] for name in folded}
    by_short = all("." not in target for target in config.target_modules)
    skeleton = _skeleton(load_config(require_base(arm)))
    has_bias = any(bias is not None for _, _, bias in folded.values())
    LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=config.base_model_name_or_path,
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
            tensors[f"{PREFIX}{name}.lora_B.bias"] = bias
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


@torch.no_grad()
def _merged(arm: str, preference: str) -> Any:
    """The backbone with `s B A` added to its weights, and `s` times the bias to its biases."""
    if not is_conditioned(arm):
        if read_json(Path(arm) / "adapter_config.json").get("lora_bias"):
            raise ConfigError(
                f"the LoRA {arm} has a bias, which PEFT cannot merge",
                "export the UniARM that it comes from with --merge",
            )
        return with_adapter(_own_dtype(require_base(arm)), arm).merge_and_unload()
    folded, scaling = fold(arm, preference), ConditionedConfig.load(arm).scaling
    model = _own_dtype(require_base(arm))
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


def _own_dtype(name: str) -> Any:
    """A model in the type of its checkpoint."""
    own = str(getattr(load_config(name), "dtype", None)).removeprefix("torch.")
    return load_model(name, dtype=own if own in ("bfloat16", "float16") else "float32")  # type: ignore[arg-type]


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


def _skeleton(config: Any) -> Any:
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def _save_rest(arm: str, facts: Sidecar, folder: Path, *, is_lora: bool) -> None:
    """Tokenizer, sidecar and card."""
    load_tokenizer(arm).save_pretrained(folder)
    facts = replace(facts, trimtab_version=trimtab.__version__)
    facts.save(folder)
    card = model_card(
        facts,
        model=require_base(arm),
        is_adapter=is_lora,
        datasets=[],
        results={},
        counts={},
        settings={"merged": not is_lora},
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
