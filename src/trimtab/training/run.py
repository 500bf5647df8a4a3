"""`trimtab train` as a function: refuse early, train, resume, save whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from trimtab.arms.sidecar import Method, ReferenceModel, RewardHead
from trimtab.documented import tells_fields_of
from trimtab.jobs import Progress
from trimtab.models.types import PromptFormat
from trimtab.training.config import TrainConfig
from trimtab.training.plan import TrainResult, plan_runs


@tells_fields_of(TrainConfig)
def train(
    *,
    model: str | os.PathLike[str],
    data: str | os.PathLike[str] | Sequence[str],
    output_dir: str | os.PathLike[str],
    method: Method = "genarm",
    reference: ReferenceModel = "none",
    reward_head: RewardHead = "logprob",
    objectives: str | Sequence[str] = "",
    split: Literal["hash", "none"] = "hash",
    eval_data: Sequence[str] = (),
    columns: str | Mapping[str, str] = "",
    pairs_per_prompt: int = 0,
    skip_bad_rows: bool = False,
    prompt_format: PromptFormat = "auto",
    chat_template: str | None = None,
    max_length: int = 1024,
    finetuning: Literal["lora", "full"] = "lora",
    lora_r: int = 8,
    lora_alpha: float = 16,
    lora_dropout: float = 0.05,
    lora_target_modules: Sequence[str] = (),
    preference_r: int | None = None,
    preference_alpha: float = 0.5,
    preference_draws: Literal["batch", "row"] = "batch",
    describe: Sequence[str] | Mapping[str, str] = (),
    global_weight: float = 1.0,
    shift: bool = True,
    condition_dim: int | None = None,
    td_lambda: float = 0.95,
    beta: float | str | Mapping[str, float] | None = None,
    margin: float = 0.0,
    label_smoothing: float = 0.0,
    loss_type: Literal["sigmoid", "hinge"] = "sigmoid",
    length_normalize: bool = False,
    scale: float = 1.0,
    learning_rate: float = 5e-4,
    lr_scheduler_type: str = "cosine",
    warmup_steps: float = 0.05,
    weight_decay: float = 0.05,
    num_train_epochs: float = 1.0,
    max_steps: int = -1,
    per_device_train_batch_size: int = 8,
    gradient_accumulation_steps: int = 4,
    per_device_eval_batch_size: int = 8,
    group_by_length: bool = True,
    max_grad_norm: float = 1.0,
    bf16: bool = False,
    gradient_checkpointing: bool = False,
    head_chunk_tokens: int = 1024,
    eval_strategy: Literal["no", "steps", "epoch"] = "epoch",
    eval_steps: float = 0.25,
    logging_steps: float = 10,
    save_strategy: Literal["no", "steps", "epoch"] = "steps",
    save_steps: float = 0.2,
    save_total_limit: int = 1,
    resume_from_checkpoint: str | None = None,
    overwrite: bool = False,
    push_to_hub: bool = False,
    hub_model_id: str | None = None,
    hub_private_repo: bool = False,
    report_to: Sequence[str] = (),
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> list[TrainResult]:
    """Train one reward model per objective, or one for all (PARM, UniARM).

        trimtab.train(model="…", data="pairs.jsonl", objectives="helpful", output_dir="arms")

    Everything that can be refused is refused before weights are loaded or anything is written.
    Under `accelerate launch` or `torchrun` every process calls this; the first one writes.

    Args:
        progress: told what is done, how much of it, and of how much.

    Raises:
        TrimtabError: bad data, options, model folder or output directory; a training that diverges.
            Nothing is written but by a training that has begun.
        Interrupted: Ctrl-C; continue with `resume_from_checkpoint="auto"`.
    """
    options: dict[str, Any] = {**locals()}
    del options["progress"]
    return run_training(TrainConfig(**options), progress)


def run_training(config: TrainConfig, progress: Progress | None = None) -> list[TrainResult]:
    """`train`, its options as one object."""
    plans = plan_runs(config)
    from trimtab.training.work import carry_out  # PyTorch, once all that is cheap to know is known

    return carry_out(plans, progress)
