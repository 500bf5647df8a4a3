"""Which layers are adapted, checked on the architecture alone before a weight is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from trimtab.arms.conditioned import ConditionedConfig, condition_model
from trimtab.arms.describe import fit_projection, objective_vectors
from trimtab.errors import ConfigError
from trimtab.models.folder import canonical
from trimtab.training.config import TrainConfig

_ATTENTION = (
    ["q_proj", "k_proj", "v_proj"],
    ["query_key_value"],
    ["c_attn"],
    ["qkv_proj"],
    ["Wqkv"],
)


def lora_targets(
    config: Any, wanted: Sequence[str], *, trust_remote_code: bool = False
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
        found = next((group for group in _ATTENTION if set(group) <= names), None)
        if found is None:
            raise ConfigError(
                f"no known attention projections in a {config.model_type} model",
                f"name layers with --lora-target-modules; there are: {', '.join(sorted(names))}",
            )
        return found
    for target in wanted:
        if not any(name == target or target.endswith(f".{name}") for name in names):
            raise ConfigError(
                f"--lora-target-modules {target} matches no layer of the model",
                f"there are: {', '.join(sorted(names))}",
            )
    return list(wanted)


def _linear_names(config: Any, trust_remote_code: bool) -> set[str]:
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


def add_lora(model: Any, config: TrainConfig, targets: list[str] | str) -> Any:
    """Wrap a model with a fresh LoRA; a scalar head (trajectory) is trained whole beside it."""
    judges = config.method == "trajectory"
    return get_peft_model(
        model,
        LoraConfig(
            task_type=TaskType.SEQ_CLS if judges else TaskType.CAUSAL_LM,
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=targets,
            modules_to_save=["score"] if judges else None,
            revision=config.revision,
        ),
    )


def add_conditioning(model: Any, config: TrainConfig, inputs: Any) -> None:
    """Put fresh conditioned layers (PARM, UniARM) into a model, in place.

    Args:
        model: a causal LM.
        config: the options.
        inputs: objectives, targets and tokenizer (`training.inputs.Inputs`).
    """
    names: list[str] = inputs.objectives
    targets = inputs.targets
    conditioned = ConditionedConfig(
        core="bilinear" if config.method == "parm" else "affine",
        objectives=tuple(names),
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=(targets,) if isinstance(targets, str) else tuple(targets),
        shift=config.shift,
        base_model_name_or_path=canonical(config.model),
        revision=config.revision,
    )
    if config.method == "parm":
        rank = config.preference_r or config.lora_r // 2
        condition_model(model, replace(conditioned, preference_r=rank))
        return
    features = config.condition_dim or condition_dim(config.lora_r, len(names))
    described = config.descriptions_of(names)
    projection = fit_projection(model, inputs.tokenizer, described, features)
    vectors = objective_vectors(model, inputs.tokenizer, described, projection)
    conditioned = replace(conditioned, condition_dim=vectors.shape[1], descriptions=described)
    condition_model(model, conditioned, vectors, projection)


def condition_dim(rank: int, objectives: int) -> int:
    """Q at which UniARM's cores have no more parameters than PARM's: `2 r Q ≤ r1² + K r2²`.

    It is K − 1 at least, and 2, so that the objectives can differ; at the smallest ranks those are
    a few parameters more.
    """
    preference_rank = rank // 2
    return max(
        2,
        objectives - 1,
        ((rank - preference_rank) ** 2 + objectives * preference_rank**2) // (2 * rank),
    )
