"""Every option of `trimtab train`, once. Help texts and docs come from the docstrings below."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trimtab.arms.sidecar import (
    CONDITIONED_METHODS,
    SCALAR_METHODS,
    Method,
    ReferenceModel,
    RewardHead,
)
from trimtab.data.reading import Reading
from trimtab.entries import parse_descriptions
from trimtab.errors import ConfigError
from trimtab.models.types import PromptFormat
from trimtab.steering import require_name


@dataclass(kw_only=True)
class TrainConfig:
    """Train a reward model on preference pairs."""

    model: str
    """Model to start from: a folder or a hub id. The ARM has its tokenizer and architecture."""

    data: list[str]
    """Preference files (JSON, JSONL, CSV, TSV, Parquet, Arrow; .gz, .xz), folders of `datasets`, or
    hub ids (`owner/name:split`), in any layout of docs/data.md. `helpful=FILE` names the objective
    of a file that names none."""

    output_dir: str
    """Where the reward model goes (one sub-folder each when several objectives are named)."""

    method: Method = "genarm"
    """`genarm`: an ARM, one per objective. `parm`, `uniarm`: one ARM for all objectives, with the
    preference as input. `dpo`: a policy, as DPO trains it against the model that it starts from.
    `trajectory`: a scalar head that judges responses. `value`: one that says after every token what
    the response will be worth; its data are rows with `prompt`, `response` and `score`."""

    reference: ReferenceModel = "none"
    """genarm: what rewards are measured against. `none`: log π_r. `start`: log π_r less its value
    under the model that training starts from, so that they are 0 in the beginning; the ARM then
    decodes as a contrast with that model (a LoRA of the base at no further cost)."""

    reward_head: RewardHead = "logprob"
    """genarm: the score of a token, its log-prob or its raw logit (`linear`). Both decode alike:
    what they differ by is the same for every token."""

    objectives: str = ""
    """Objective(s) to train for, comma-separated, such as `helpful,harmless`. Data that name no
    objective belong to it."""

    split: Literal["hash", "none"] = "hash"
    """`hash`: by the prompt's hash train on 8 tenths, evaluate on 1 (validation), never touch 1
    (test). `none`: train on every row."""

    eval_data: list[str] = field(default_factory=list)
    """Files to evaluate on instead of the validation split."""

    columns: str = ""
    """Which columns hold what, where no layout fits: `prompt=question,chosen=good,rejected=bad`."""

    pairs_per_prompt: int = 0
    """Where a prompt has several rated or ranked answers, make this many pairs of them; 0 makes
    all."""

    skip_bad_rows: bool = False
    """Leave malformed rows out, counted and named, instead of refusing the data."""

    prompt_format: PromptFormat = "auto"
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

    preference_r: int | None = None
    """parm: the part of the rank that the preference acts on; by default half of --lora-r."""

    preference_alpha: float = 0.5
    """parm, uniarm: preferences are drawn from Dirichlet(alpha, …, alpha) while training."""

    preference_draws: Literal["batch", "row"] = "batch"
    """parm, uniarm: draw one preference for each forward pass, or one for each pair."""

    describe: list[str] = field(default_factory=list)
    """uniarm: what each objective means, as NAME=TEXT; the text's embeddings stand for it."""

    global_weight: float = 1.0
    """uniarm: λ, weight of the loss on the preference-weighted label; 0 leaves it out."""

    shift: bool = True
    """uniarm: let the preference shift features as well as scale them."""

    condition_dim: int | None = None
    """uniarm: entries of an objective's vector; by default as many as give PARM's parameter
    count, about lora_r · (objectives + 1) / 8, and 2 or more."""

    td_lambda: float = 0.95
    """value: λ of the TD(λ) returns; 1 regresses every token on the response's score."""

    beta: float | str | None = None
    """β_r of the loss: what a nat of reward difference counts; for all objectives, or for each
    (`helpful=0.05,harmless=0.01`). Default 0.05 (parm, uniarm: 0.01), the papers' for sums over
    about a hundred tokens; with --reference start, and dpo: 0.1; 4 with --length-normalize;
    trajectory: 1."""

    margin: float = 0.0
    """Margin γ subtracted from the scaled reward difference."""

    label_smoothing: float = 0.0
    """Share of labels taken as flipped, in [0, 0.5)."""

    loss_type: Literal["sigmoid", "hinge"] = "sigmoid"
    """Bradley-Terry or hinge loss."""

    length_normalize: bool = False
    """Reward per token instead of per response, so that length does not count."""

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
    """When to evaluate on the validation split or --eval-data; the last step always is, but with
    `no` nothing is (on a large model that can be most of a short run; `trimtab accuracy` does it
    later)."""

    eval_steps: float = 0.25
    """With `--eval-strategy steps`: every so many steps, or below 1 this share of all steps."""

    logging_steps: float = 10
    """Log every so many steps, or below 1 this share of all steps."""

    save_strategy: Literal["no", "steps", "epoch"] = "steps"
    """When to write a checkpoint to resume from."""

    save_steps: float = 0.2
    """With `--save-strategy steps`: every so many steps, or below 1 this share of all steps."""

    save_total_limit: int = 1
    """Checkpoints kept; 0 keeps all."""

    resume_from_checkpoint: str | None = None
    """`auto` continues an interrupted run in the output directory (and starts a new one where there
    is none); or a checkpoint folder."""

    overwrite: bool = False
    """Allow an output directory that is not empty."""

    push_to_hub: bool = False
    """Put the finished reward model at the Hugging Face hub (no checkpoints, no logs); needs a
    login (`hf auth login`, or HF_TOKEN)."""

    hub_model_id: str | None = None
    """With --push-to-hub: OWNER/NAME, or NAME for one of your own; by default the output folder's
    name. With several objectives each has its own after it: NAME-helpful."""

    hub_private_repo: bool = False
    """With --push-to-hub: make the repository private, where it has to be made."""

    report_to: list[str] = field(default_factory=list)
    """Trackers, as transformers names them (wandb, …). `metrics.jsonl` is always written."""

    seed: int = 0
    """Seed of the initialisation, the order of the data and dropout."""

    revision: str | None = None
    """Of the model's hub id: a branch, tag or commit; an adapter records it."""

    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint."""

    def __post_init__(self) -> None:
        """What Python callers may write otherwise, as the command line has it."""
        single = isinstance(self.data, str | os.PathLike)
        self.data = [str(self.data)] if single else [str(source) for source in self.data]
        for name in ("eval_data", "lora_target_modules", "report_to"):
            setattr(self, name, list(getattr(self, name)))
        if not isinstance(self.objectives, str):
            self.objectives = ",".join(self.objectives)
        if isinstance(self.columns, Mapping):
            self.columns = ",".join(f"{name}={column}" for name, column in self.columns.items())
        self.model, self.output_dir = str(self.model), str(self.output_dir)  # paths are welcome
        if isinstance(self.describe, Mapping):
            self.describe = [f"{name}={text}" for name, text in self.describe.items()]
        self.describe = list(self.describe)
        if isinstance(self.beta, Mapping):
            self.beta = ",".join(f"{name}={value}" for name, value in self.beta.items())
        with contextlib.suppress(ValueError):
            self.beta = self.beta if self.beta is None else float(self.beta)

    @property
    def objective_names(self) -> list[str]:
        """The objectives named, in order; [""] when none is."""
        names = [name.strip() for name in self.objectives.split(",") if name.strip()]
        for name in names:
            require_name(name)
        return list(dict.fromkeys(names)) or [""]

    @property
    def reading(self) -> Reading:
        """How rows are read."""
        return Reading.of(self.columns, self.pairs_per_prompt)

    @property
    def conditions(self) -> bool:
        """Whether one ARM takes all objectives."""
        return self.method in CONDITIONED_METHODS

    @property
    def judges(self) -> bool:
        """Whether the model gets a scalar head in place of its LM head."""
        return self.method in SCALAR_METHODS

    @property
    def has_reference(self) -> bool:
        """Whether rewards are measured against the model that training starts from."""
        return self.reference == "start" or self.method == "dpo"

    @property
    def descriptions(self) -> dict[str, str]:
        """Objective -> description, as given."""
        return parse_descriptions(self.describe)

    def descriptions_of(self, objectives: Sequence[str]) -> dict[str, str]:
        """Objective -> description, for exactly these.

        Raises:
            ConfigError: one is missing, or something else is described.
        """
        known = ", ".join(objectives)
        for name in self.descriptions:
            if name not in objectives:
                raise ConfigError(f"{name!r} is described but no objective", f"they are: {known}")
        for name in objectives:
            if name not in self.descriptions:
                raise ConfigError(
                    f"no description of {name!r}", f'write --describe {name}="what it means"'
                )
        return {name: self.descriptions[name] for name in objectives}

    def hub_repo(self, objective: str = "") -> str:
        """The hub id that a reward model is pushed to; "" where it is not."""
        if not self.push_to_hub:
            return ""
        name = self.hub_model_id or Path(self.output_dir).resolve().name
        several = not self.conditions and len(self.objective_names) > 1
        return f"{name}-{objective}" if several else name
