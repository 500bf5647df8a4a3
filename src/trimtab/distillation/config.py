"""Every option of `trimtab distill`, once. Help texts and docs come from the docstrings below."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trimtab.engines.guides import Contrast, Instruction, contrasts, instructions, require_distinct
from trimtab.errors import ConfigError
from trimtab.models.types import PromptFormat
from trimtab.training.config import TrainConfig

SAMPLES, PAIRS = "samples.jsonl", "pairs.jsonl"
"""In the output folder: what was sampled, and the pairs made of it."""


@dataclass(kw_only=True)
class DistillConfig:
    """Make an ARM of an instruction or a contrast: the same steering without the guide's tokens."""

    base: str
    """The frozen base: a folder or a hub id. The ARM is a LoRA of it."""

    prompts: str
    """File or hub id of rows with `prompt` (and `tools`); other columns say nothing here."""

    output_dir: str
    """Where the ARM goes, with the samples it was trained on."""

    instruct: list[str] = field(default_factory=list)
    """The guide: NAME="Use short words.", with a weight before the text where it is not 1."""

    contrast: list[str] = field(default_factory=list)
    """The guide: NAME=TUNED:UNTUNED, with a weight before it where it is not 1."""

    method: Literal["tokens", "pairs"] = "tokens"
    """`tokens`: at every token of the samples the ARM learns the guided base's distribution.
    `pairs`: what the base says with the guide is preferred to what it says without."""

    samples: int = 4
    """Responses per prompt that are sampled under the guide."""

    unguided: int = 1
    """tokens: responses per prompt sampled without it, so that the ARM knows both. (pairs: as many
    as --samples.)"""

    max_new_tokens: int = 128
    """Tokens a sampled response may have at most."""

    temperature: float = 1.0
    """Of the samples."""

    strength: float = 1.0
    """How hard the guide pulls when responses are sampled; what is learned is its pull at 1."""

    batch_size: int = 8
    """Responses sampled together."""

    split: Literal["hash", "none"] = "none"
    """`none`: train on every prompt. `hash`: on 8 tenths of them by the prompt's hash, and evaluate
    on 1."""

    prompt_format: PromptFormat = "auto"
    """How a plain-text prompt is read when sampling, training and by the ARM: `chat` as one user
    turn, `raw` as it stands, `auto` as chat where there is a chat template."""

    max_length: int = 1024
    """Longest prompt plus response, in tokens; longer ones are left out and counted, never cut."""

    lora_r: int = 16
    """Rank of the LoRA."""

    lora_alpha: float = 32
    """LoRA scaling: the update is multiplied by lora_alpha / lora_r."""

    lora_target_modules: list[str] = field(default_factory=list)
    """Names of the linear layers that get a LoRA, or `all-linear`; by default the attention's
    q, k and v projections."""

    beta: float | None = None
    """pairs: β of the loss; 0.1 by default."""

    learning_rate: float = 5e-4
    """Peak learning rate."""

    num_train_epochs: float = 2.0
    """Passes over the samples."""

    max_steps: int = -1
    """Stop after this many optimiser steps; -1 goes by epochs."""

    per_device_train_batch_size: int = 4
    """Responses (pairs) in one forward pass."""

    gradient_accumulation_steps: int = 2
    """Forward passes per optimiser step."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""

    bf16: bool = False
    """Train in bfloat16 (autocast)."""

    head_chunk_tokens: int = 256
    """Response tokens that go through the LM heads at once; bounds their memory."""

    logging_steps: float = 10
    """Log every so many steps, or below 1 this share of all steps."""

    save_steps: float = 0.2
    """Write a checkpoint every so many steps, or below 1 this share of all steps."""

    seed: int = 0
    """Seed of the samples, the initialisation and the order of the data."""

    revision: str | None = None
    """Of the base's hub id: a branch, tag or commit."""

    trust_remote_code: bool = False
    """Run model code that comes with the base's checkpoint."""

    overwrite: bool = False
    """Replace what another run left in the output folder."""

    def __post_init__(self) -> None:
        """What Python callers may write otherwise, as the command line has it."""
        self.base, self.prompts = str(self.base), str(self.prompts)
        self.output_dir = str(self.output_dir)
        self._guides: dict[str, Instruction | Contrast] = {
            **instructions(self.instruct),
            **contrasts(self.contrast),
        }
        require_distinct(instructions(self.instruct), contrasts(self.contrast))

    @property
    def guide(self) -> tuple[str, Instruction | Contrast]:
        """The one guide, and its name.

        Raises:
            ConfigError: none, or several.
        """
        if len(self._guides) != 1:
            names = ", ".join(self._guides) or "none"
            raise ConfigError(
                f"distill takes exactly one guide, and there is {names}",
                'give one --instruct NAME="TEXT" or one --contrast NAME=TUNED:UNTUNED',
            )
        return next(iter(self._guides.items()))

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.output_dir)

    def training(self) -> TrainConfig:
        """The training that follows the sampling."""
        return TrainConfig(
            model=self.base,
            data=[str(self.folder / (SAMPLES if self.method == "tokens" else PAIRS))],
            output_dir=self.output_dir,
            reference="start",
            objectives=self.guide[0],
            split=self.split,
            prompt_format=self.prompt_format,
            max_length=self.max_length,
            lora_r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=0.0,
            lora_target_modules=self.lora_target_modules,
            beta=self.beta,
            learning_rate=self.learning_rate,
            weight_decay=0.0,
            num_train_epochs=self.num_train_epochs,
            max_steps=self.max_steps,
            per_device_train_batch_size=self.per_device_train_batch_size,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            per_device_eval_batch_size=self.per_device_train_batch_size,
            gradient_checkpointing=self.gradient_checkpointing,
            bf16=self.bf16,
            head_chunk_tokens=self.head_chunk_tokens,
            logging_steps=self.logging_steps,
            save_steps=self.save_steps,
            resume_from_checkpoint="auto",
            seed=self.seed,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )
