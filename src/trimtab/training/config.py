"""Every option of `trimtab train`, once. Help texts and docs come from the docstrings below."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from trimtab.errors import ConfigError


@dataclass(kw_only=True)
class TrainConfig:
    """Train a reward model on preference pairs."""

    model: str
    """Model to start from: a folder or a hub id. The ARM has its tokenizer and architecture."""

    data: list[str]
    """Preference files (JSON, JSONL, CSV, Parquet; .gz, .xz) or hub ids (`owner/name:split`)."""

    output_dir: str
    """Where the reward model goes (one sub-folder each when several objectives are named)."""

    method: Literal["genarm", "trajectory"] = "genarm"
    """`genarm`: an ARM, one per objective. `trajectory`: a scalar head that judges responses."""

    objectives: str = ""
    """Objective(s) to train for, comma-separated, such as `helpful,harmless`. Data that name no
    objective belong to it."""

    split: Literal["hash", "none"] = "hash"
    """`hash`: by the prompt's hash train on 8 tenths, evaluate on 1 (validation), never touch 1
    (test). `none`: train on every row."""

    eval_data: list[str] = field(default_factory=list)
    """Files to evaluate on instead of the validation split."""

    skip_bad_rows: bool = False
    """Leave malformed rows out, counted and named, instead of refusing the data."""

    prompt_format: Literal["auto", "chat", "raw"] = "auto"
    """How a plain-text prompt is read: `chat` as one user turn, `raw` as it stands, `auto` as chat
    when the tokenizer has a chat template."""

    chat_template: str | None = None
    """Jinja file with a chat template, for a tokenizer that has none."""

    max_length: int = 1024
    """Longest prompt plus response, in tokens; longer pairs are left out and counted, never cut."""

    finetuning: Literal["lora", "full"] = "lora"
    """Train a LoRA adapter, or all weights."""

    lora_r: int = 8
    """Rank of the LoRA."""

    lora_alpha: float = 16
    """LoRA scaling: the update is multiplied by lora_alpha / lora_r."""

    lora_dropout: float = 0.05
    """Dropout before the LoRA."""

    lora_target_modules: list[str] = field(default_factory=list)
    """Names of the linear layers that get a LoRA, or `all-linear`; by default the attention's
    q, k and v projections."""

    beta: float | None = None
    """β_r of the loss: what a nat of reward difference counts. Default 0.05 (trajectory: 1)."""

    margin: float = 0.0
    """Margin γ subtracted from the scaled reward difference."""

    label_smoothing: float = 0.0
    """Share of labels taken as flipped, in [0, 0.5)."""

    loss_type: Literal["sigmoid", "hinge"] = "sigmoid"
    """Bradley-Terry or hinge loss."""

    length_normalize: bool = False
    """Reward per token instead of per response."""

    scale: float = 1.0
    """Calibration stored with the ARM: multiplies the strength when decoding."""

    learning_rate: float = 5e-4
    """Peak learning rate."""

    lr_scheduler_type: str = "cosine"
    """Learning-rate schedule, as transformers names it."""

    warmup_steps: float = 0.05
    """Warm-up: a number of steps, or below 1 a share of all steps."""

    weight_decay: float = 0.05
    """AdamW weight decay."""

    num_train_epochs: float = 1.0
    """Passes over the training pairs."""

    max_steps: int = -1
    """Stop after this many optimiser steps; -1 goes by epochs."""

    per_device_train_batch_size: int = 8
    """Pairs in one forward pass."""

    gradient_accumulation_steps: int = 4
    """Forward passes per optimiser step."""

    per_device_eval_batch_size: int = 8
    """Pairs in one forward pass of an evaluation."""

    group_by_length: bool = True
    """Put pairs of similar length into one batch, so that little is computed on padding."""

    max_grad_norm: float = 1.0
    """Gradient clipping."""

    bf16: bool = False
    """Compute in bfloat16 (autocast)."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""

    head_chunk_tokens: int = 1024
    """Response tokens that go through the LM head at once; bounds its memory."""

    eval_strategy: Literal["no", "steps", "epoch"] = "epoch"
    """When to evaluate."""

    eval_steps: float = 0.25
    """With `--eval-strategy steps`: every so many steps, or below 1 this share of all steps."""

    logging_steps: float = 10
    """Log every so many steps, or below 1 this share of all steps."""

    save_strategy: Literal["no", "steps", "epoch"] = "steps"
    """When to write a checkpoint to resume from."""

    save_steps: float = 0.2
    """With `--save-strategy steps`: every so many steps, or below 1 this share of all steps."""

    save_total_limit: int = 1
    """Checkpoints kept."""

    resume_from_checkpoint: str | None = None
    """`auto` continues an interrupted run in the output directory (and starts a new one where there
    is none); or a checkpoint folder."""

    overwrite: bool = False
    """Allow an output directory that is not empty."""

    report_to: list[str] = field(default_factory=list)
    """Trackers, as transformers names them (wandb, …). `metrics.jsonl` is always written."""

    seed: int = 0
    """Seed of the initialisation, the order of the data and dropout."""

    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint."""

    def __post_init__(self) -> None:
        if isinstance(self.data, str):
            self.data = [self.data]
        if not isinstance(self.objectives, str):
            self.objectives = ",".join(self.objectives)
        self.model, self.output_dir = str(self.model), str(self.output_dir)  # paths are welcome
        positive = (
            "max_length", "lora_r", "per_device_train_batch_size", "gradient_accumulation_steps",
            "per_device_eval_batch_size", "head_chunk_tokens", "learning_rate", "num_train_epochs",
        )  # fmt: skip
        for name in positive:
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"--{_flag(name)} is {value}", "it must be more than 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(
                f"--label-smoothing is {self.label_smoothing}", "it must be in [0, 0.5)"
            )
        if self.beta is not None and not (self.beta > 0 and math.isfinite(self.beta)):
            raise ConfigError(f"--beta is {self.beta}", "it must be more than 0")
        if not self.data:
            raise ConfigError("no data", "name at least one file or hub id with --data")

    @property
    def objective_names(self) -> list[str]:
        """The objectives named, in order; [""] when none is."""
        names = [name.strip() for name in self.objectives.split(",") if name.strip()]
        for name in names:
            if not name.replace("-", "_").isidentifier():
                raise ConfigError(
                    f"objective {name!r} is no name", "use letters, digits, '_' and '-'"
                )
        return list(dict.fromkeys(names)) or [""]

    @property
    def loss_beta(self) -> float:
        """β_r with the method's default."""
        if self.beta is not None:
            return self.beta
        return 1.0 if self.method == "trajectory" else 0.05

    def identity(self) -> dict[str, Any]:
        """The settings that a resumed run must share with the one it continues."""
        free = {
            "resume_from_checkpoint",
            "overwrite",
            "report_to",
            "output_dir",
            "save_total_limit",
        }
        return {key: value for key, value in asdict(self).items() if key not in free}


def _flag(name: str) -> str:
    return name.replace("_", "-")
