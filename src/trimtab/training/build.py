"""From options to objects: the model to train, transformers' arguments, the trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from trimtab.arms.check import check_rewards
from trimtab.arms.rewards import ArmRewards, trajectory_rewards
from trimtab.data.collate import ComparisonCollator, PairCollator, SampleCollator
from trimtab.errors import ConfigError, ModelLoadError
from trimtab.jobs import Progress
from trimtab.models.load import load_model, load_scalar
from trimtab.models.renamed import checkpointing_options
from trimtab.training.adapt import add_conditioning, add_lora
from trimtab.training.betas import loss_beta
from trimtab.training.callbacks import Checkpoints, MetricsFile, ProgressReport
from trimtab.training.conditioned import ConditionedTrainer, PreferenceDraws, asked_of
from trimtab.training.config import TrainConfig
from trimtab.training.inputs import Inputs
from trimtab.training.losses import LossOptions, ObjectiveLosses
from trimtab.training.resume import CHECKPOINTS
from trimtab.training.start import measure_start
from trimtab.training.stopping import CleanStop, all_finite
from trimtab.training.teaching import DistillTrainer, TaughtCollator
from trimtab.training.trainer import PreferenceTrainer, Rewards
from trimtab.training.value import ValueTrainer


def build_trainer(
    config: TrainConfig, inputs: Inputs, folder: Path, objective: str, progress: Progress | None
) -> tuple[PreferenceTrainer, CleanStop]:
    """The trainer of one reward model, and the callback that knows whether it was interrupted."""
    stop = CleanStop()
    with _refused_options():
        arguments = training_arguments(config, folder, evaluates="validation" in inputs.rows)
    model = build_model(config, inputs)
    pairs = inputs.rows.get("validation", [])
    asked = asked_of(inputs.splits.get("validation", []), inputs.objectives)
    common: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "train_dataset": inputs.rows["train"],
        "eval_dataset": sorted(asked or pairs, key=len) or None,
        "group_by_length": config.group_by_length,
        "callbacks": [
            MetricsFile(folder / "metrics.jsonl"),
            Checkpoints(folder / CHECKPOINTS, config.save_total_limit),
            stop,
        ],
    }
    with _refused_options():
        if config.conditions:
            trainer: PreferenceTrainer = _conditioned_trainer(config, inputs, common)
        elif inputs.teacher is not None:
            common |= {"data_collator": TaughtCollator(inputs.pad_id)}
            trainer = DistillTrainer(teacher=inputs.teacher.load(model, config), **common)
        elif config.method == "value":
            common |= {"data_collator": SampleCollator(inputs.pad_id)}
            trainer = ValueTrainer(decay=config.td_lambda, **common)
        else:
            common |= {"data_collator": PairCollator(inputs.pad_id), "rewards": _rewards(config)}
            trainer = PreferenceTrainer(loss=_loss_options(config, objective), **common)
    if config.has_reference and inputs.teacher is None:
        measure_start(trainer, progress)
    trainer.remove_callback(transformers.PrinterCallback)
    if progress is not None:
        label = f"training {objective or (config.method if config.conditions else '')}".strip()
        trainer.add_callback(ProgressReport(progress, label))
    return trainer, stop


def _rewards(config: TrainConfig) -> Rewards:
    if config.judges:
        return trajectory_rewards
    linear = config.reward_head == "linear"
    return ArmRewards(config.head_chunk_tokens, config.length_normalize, linear)


def _loss_options(config: TrainConfig, objective: str) -> LossOptions:
    return LossOptions(
        loss_beta(config, objective),
        config.margin,
        config.label_smoothing,
        config.loss_type,
        config.length_normalize,
    )


def _conditioned_trainer(
    config: TrainConfig, inputs: Inputs, common: dict[str, Any]
) -> ConditionedTrainer:
    """The trainer of one ARM for all objectives, which count alike however many pairs they have."""
    names, pairs = inputs.objectives, inputs.splits["train"]
    counts = [sum(name in pair.verdicts for pair in pairs) for name in names]
    weight = config.global_weight if config.method == "uniarm" else 0.0
    if common["args"].fsdp or common["args"].deepspeed:
        raise ConfigError(
            f"--method {config.method} cannot be trained sharded", "use one process, or DDP"
        )
    return ConditionedTrainer(
        data_collator=ComparisonCollator(inputs.pad_id, objectives=names),
        rewards=_rewards(config),
        objectives=names,
        losses=ObjectiveLosses(
            [_loss_options(config, name) for name in names],
            [len(pairs) / count for count in counts],
            weight,
        ),
        draws=PreferenceDraws(
            len(names), config.preference_alpha, config.preference_draws == "row", config.seed
        ),
        **common,
    )


@contextlib.contextmanager
def _refused_options() -> Iterator[None]:
    """An unknown schedule, a tracker that is not installed: one line instead of a traceback."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (ValueError, ImportError, RuntimeError) as error:
        raise ConfigError(
            f"transformers refuses these options ({error})", "mend the option, or install it"
        ) from error


def build_model(config: TrainConfig, inputs: Inputs) -> Any:
    """The model to train: with a fresh LoRA, or whole; with a scalar head for a judge."""
    judges = config.judges
    model = (load_scalar if judges else load_model)(
        config.model,
        dtype="float32" if config.finetuning == "full" or not config.bf16 else "bfloat16",
        trust_remote_code=config.trust_remote_code,
        revision=config.revision,
    )
    _require_numbers(model, config.model)
    model.config.pad_token_id = inputs.tokenizer.pad_token_id
    if not judges:
        check_rewards(model, inputs.tokenizer, config.prompt_format, name=config.model)
    if config.conditions:
        add_conditioning(model, config, inputs)
        if config.gradient_checkpointing:
            model.enable_input_require_grads()
    elif config.finetuning == "lora":
        model = add_lora(model, config, inputs.targets)
        if config.gradient_checkpointing:
            model.enable_input_require_grads()
    return model.train()


def _require_numbers(model: Any, name: str) -> None:
    broken = next((key for key, p in model.named_parameters() if not all_finite([p])), None)
    if broken:
        raise ModelLoadError(
            f"the weights of {name} are NaN or infinite ({broken})",
            "a training that diverged may have left them: take an earlier state of the model",
        )


def training_arguments(
    config: TrainConfig, folder: Path, *, evaluates: bool
) -> transformers.TrainingArguments:
    """The options that are transformers' own."""
    return transformers.TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps,
        per_device_train_batch_size=config.per_device_train_batch_size,
        per_device_eval_batch_size=config.per_device_eval_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        **checkpointing_options(config.gradient_checkpointing),
        max_grad_norm=config.max_grad_norm,
        bf16=config.bf16,
        use_cpu=not torch.accelerator.is_available(),  # else bf16 on a CPU is refused
        eval_strategy=config.eval_strategy if evaluates else "no",
        eval_steps=config.eval_steps,
        logging_steps=config.logging_steps,
        save_strategy=config.save_strategy,
        save_steps=config.save_steps,
        save_total_limit=None,  # `Checkpoints` drops old ones
        report_to=config.report_to or "none",
        seed=config.seed,
        data_seed=config.seed,
        remove_unused_columns=False,
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
