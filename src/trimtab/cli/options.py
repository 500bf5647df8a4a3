"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import tyro

from trimtab.arms.named import left_to_load, named_arms, objectives_of
from trimtab.engines.guides import (
    Contrast,
    Instruction,
    contrasts,
    instructions,
    models_of,
    require_distinct,
)
from trimtab.engines.policies import Amateur, policies_of, require_apart, require_share
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import LoadSettings, Speculate
from trimtab.entries import named_entries, parse_descriptions, parse_revisions
from trimtab.errors import ConfigError
from trimtab.models.origins import Origins
from trimtab.models.types import DType, PromptFormat, Quantization
from trimtab.steering import Combine, Steering

if TYPE_CHECKING:
    from trimtab.engines.local import LocalEngine


@dataclass(kw_only=True)
class JsonOptions:
    """How results are printed."""

    json: bool = False
    """Print the results as JSON."""


@dataclass(kw_only=True)
class RowFileOptions:
    """What becomes of an output file that is there."""

    overwrite: bool = False
    """Replace an output file of another run."""


@dataclass(kw_only=True)
class LayoutOptions:
    """How rows of preference data become pairs."""

    columns: str = ""
    """Which columns hold what, where no layout fits: `prompt=question,chosen=good,rejected=bad`."""

    pairs_per_prompt: int = 0
    """Where a prompt has several rated or ranked answers, make this many pairs of them; 0 makes
    all."""


@dataclass(kw_only=True)
class ReadingOptions(LayoutOptions):
    """The same, and what becomes of rows that are none."""

    skip_bad_rows: bool = False
    """Leave malformed rows out, counted and named, instead of refusing the data."""


@dataclass(kw_only=True)
class BaseOptions:
    """The base, and what a prompt is to it."""

    base: str
    """The frozen base: a folder or a hub id."""

    prompt_format: PromptFormat = "auto"
    """How a plain-text prompt is read: as one user turn, as it stands, or by the tokenizer."""


@dataclass(kw_only=True)
class LoadOptions:
    """How models are loaded."""

    dtype: DType = "auto"
    """Type of the weights; `auto` is float32 on a CPU, the checkpoint's own on a GPU."""

    device: str | None = None
    """Where the models run; the GPU by default where there is one."""


@dataclass(kw_only=True)
class RewardModelOptions(LoadOptions):
    """How one reward model is loaded, and run."""

    batch_size: int = 16
    """Responses in one forward pass."""

    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint."""

    revision: str | None = None
    """Of a hub id: a branch, tag or commit."""


@dataclass(kw_only=True)
class ModelsOptions(LoadOptions):
    """How several models are loaded."""

    trust_remote_code: list[str] = field(default_factory=list)
    """Names of the models whose checkpoints' own code may run: `base`, `draft`, or the name that
    an ARM or a scorer has here."""

    revision: list[str] = field(default_factory=list)
    """A branch, tag or commit of the base's hub id, or NAME=REVISION of another model's."""


@dataclass(kw_only=True)
class EngineOptions(BaseOptions, ModelsOptions):
    """Which models, and how they are steered."""

    arm: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """An ARM as OBJECTIVE=FOLDER_OR_HUB_ID, or the folder of a conditioned ARM (PARM, UniARM),
    which knows its objectives; repeat the option for several ARMs."""

    policy: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """A policy for an objective, OBJECTIVE=MODEL (a DPO model, say): at strength 1 tokens come from
    the policies alone, at less the base has its share; repeat the option for several."""

    amateur: str | None = None
    """Contrastive decoding: a weak model whose preferences the base is to be free of, MODEL or
    PENALTY:MODEL (0.5 by default)."""

    plausibility: float | None = None
    """With --amateur: keep tokens with at least this share of the base's largest probability (0.1
    by default)."""

    combine: Combine = "fusion"
    """How several ARMs or policies act. `fusion` runs each (of policies, MOD with the reverse KL);
    `soup` averages LoRAs into one, request by request (rewarded soups: their updates), and
    `factor-soup` their factors A and B apart; `forward-kl` is MOD's other mean, of policies."""

    describe: list[str] = field(default_factory=list)
    """Further objectives of a UniARM that it was not trained for, as NAME=TEXT. Experimental."""

    instruct: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Steer without training, towards what the base says under an instruction:
    NAME="Use short words.", or NAME=-0.5:"..." to steer away; repeat the option for several."""

    contrast: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Steer by the difference of two models, NAME=TUNED:UNTUNED (proxy-tuning), with a weight
    before it where it is not 1; repeat the option for several."""

    preference: str | None = None
    """Weight per objective, such as `helpful=0.7,harmless=0.3`; all alike by default."""

    strength: float = 1.0
    """How hard the guide pulls (1/β of the papers); 0 is the base exactly."""

    kl_budget: float | None = None
    """Nats per token; the strength is lowered, token by token, so that the steered distribution's
    KL divergence from the base's, before temperature and filters, stays within it."""

    gate: float | None = None
    """Leave the ARMs out where the base gives one token more than this probability."""

    speculate: Speculate = "off"
    """Draft tokens with a small model and verify them in one pass: the same tokens, fewer passes.
    `auto` drafts only while that saves time."""

    draft_model: str | None = None
    """What drafts: folder or hub id of a small model with the base's vocabulary, or `ngram` for
    the text so far. By default a small ARM, or else the text so far."""

    max_length: int | None = None
    """Tokens a request may have, prompt and response; the models' own limit by default."""

    cache_memory: str | None = None
    """Memory for the keys and values of all requests, such as `2GB`; half of what is free by
    default. Where it is spent, the youngest request waits and is read anew later."""

    quantization: Quantization | None = None
    """Load the base, and so the LoRA ARMs on it, with weights of this many bits (needs
    optimum-quanto)."""

    @cached_property
    def arms(self) -> dict[str, str]:
        """Objective -> folder."""
        return named_arms(self.arm, self.revisions)

    @cached_property
    def instructions(self) -> dict[str, Instruction]:
        """By objective."""
        return instructions(self.instruct)

    @cached_property
    def contrasts(self) -> dict[str, Contrast]:
        """By objective."""
        return contrasts(self.contrast)

    @cached_property
    def weak(self) -> Amateur | None:
        """The amateur."""
        if self.amateur is None:
            if self.plausibility is not None:
                raise ConfigError("--plausibility without --amateur", "name a weak model")
            return None
        return Amateur.of(self.amateur, self.plausibility)

    @cached_property
    def policies(self) -> dict[str, str]:
        """Policies and an amateur: objective -> place."""
        return policies_of(self.policy_places, self.weak)

    @cached_property
    def policy_places(self) -> dict[str, str]:
        """Policies: objective -> place."""
        return named_entries(self.policy, "--policy", "safe=FOLDER")

    @property
    def revisions(self) -> dict[str, str]:
        """Name -> revision."""
        return parse_revisions(self.revision)

    @property
    def objectives(self) -> list[str]:
        """What can be steered to, in the engine's order."""
        require_distinct(self.arms, self.contrasts, self.instructions, self.policies)
        guides = [*objectives_of(self.arms), *self.contrasts, *self.instructions]
        require_apart(self.policies, guides, self.combine)
        return [*guides, *self.policies, *parse_descriptions(self.describe)]

    def steering(self) -> Steering:
        """The default steering, validated before anything is loaded."""
        steering = Steering.of(
            self.objectives, self.preference, self.strength, self.kl_budget, self.gate
        )
        require_share(steering.strength, self.policies)
        return steering

    def require_draft(self) -> None:
        """Refuse a drafter that nobody asks."""
        if self.draft_model and self.speculate == "off":
            raise ConfigError("--draft-model without --speculate", "add --speculate auto")

    def loading(self) -> LoadSettings:
        """How the engine is loaded, as `load` and `generate` take it."""
        return {
            "dtype": self.dtype,
            "device": self.device,
            "prompt_format": self.prompt_format,
            "trust_remote_code": self.trust_remote_code,
            "revisions": self.revisions,
            "draft": self.draft_model,
            "max_length": self.max_length,
            "cache_memory": self.cache_memory,
            "quantization": self.quantization,
            "combine": self.combine,
            "describe": parse_descriptions(self.describe),
            "instruct": self.instructions,
            "contrast": self.contrasts,
            "policy": self.policy_places,
            "amateur": self.weak,
        }

    def load(self) -> LocalEngine:
        """Load the engine."""
        from trimtab.cli.parse import quiet_libraries
        from trimtab.engines.local import load_engine

        self.require_draft()
        others = [*models_of(self.contrasts), *self.policies]
        Origins.of(["base", "draft", *self.arms, *self.arm, *others], (), self.revisions)
        quiet_libraries()
        left = left_to_load(self.revisions, others)
        loading: LoadSettings = {**self.loading(), "revisions": left}
        return load_engine(self.base, self.arms, **loading)


@dataclass(kw_only=True)
class SamplingOptions:
    """How tokens are chosen from the fused distribution."""

    max_new_tokens: int = 128
    """Tokens a response may have at most."""

    temperature: float = 1.0
    """Divides the fused log-probs; 0 is greedy."""

    top_k: int = 0
    """Keep this many of the likeliest tokens; 0 keeps all."""

    top_p: float = 1.0
    """Keep the smallest set of tokens with this much mass; 1 keeps all."""

    min_p: float = 0.0
    """Keep tokens with at least this share of the largest probability; 0 keeps all."""

    seed: int = 0
    """The same seed gives the same tokens; prompt number i uses seed + i."""

    stop: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """A text that ends a response; repeat the option for several."""

    def sampling(self) -> Sampling:
        """The options as `Sampling`, validated."""
        return Sampling(
            self.max_new_tokens,
            self.temperature,
            self.top_k,
            self.top_p,
            self.min_p,
            self.seed,
            tuple(self.stop),
        )
