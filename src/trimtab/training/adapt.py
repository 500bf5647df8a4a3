"""Fresh adapters on the model to train: a LoRA, or conditioned layers (PARM, UniARM)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from peft import LoraConfig, TaskType, get_peft_model

from trimtab.arms.conditioned import ConditionedConfig, condition_model
from trimtab.arms.describe import fit_projection, objective_vectors
from trimtab.models.folder import canonical
from trimtab.training.config import TrainConfig
from trimtab.training.inputs import Inputs


def add_lora(model: Any, config: TrainConfig, targets: list[str] | str) -> Any:
    """Wrap a model with a fresh LoRA; a scalar head (trajectory) is trained whole beside it."""
    judges = config.judges
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


def add_conditioning(model: Any, config: TrainConfig, inputs: Inputs) -> None:
    """Put fresh conditioned layers (PARM, UniARM) into a model, in place.

    Args:
        model: a causal LM.
        config: the options.
        inputs: objectives, targets and tokenizer.
    """
    names, targets = inputs.objectives, inputs.targets
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
