"""Whether the options of `trimtab train` can work, before anything is read."""

from __future__ import annotations

import math

from trimtab.errors import ConfigError
from trimtab.training.betas import loss_beta, named_betas
from trimtab.training.config import TrainConfig

_POSITIVE = (
    "max_length", "lora_r", "lora_alpha", "scale", "per_device_train_batch_size",
    "gradient_accumulation_steps", "per_device_eval_batch_size", "head_chunk_tokens",
    "learning_rate", "num_train_epochs", "preference_alpha", "logging_steps", "eval_steps",
    "save_steps",
)  # fmt: skip
_NOT_NEGATIVE = ("warmup_steps", "weight_decay", "max_grad_norm", "save_total_limit")


def check(config: TrainConfig) -> None:
    """Refuse options that mean nothing.

    Raises:
        ConfigError: the first of them.
    """
    for name in _POSITIVE:
        _require(config, name, 0 < getattr(config, name) < math.inf, "it must be more than 0")
    for name in _NOT_NEGATIVE:
        _require(config, name, 0 <= getattr(config, name) < math.inf, "it must be 0 or more")
    _require(config, "margin", math.isfinite(config.margin), "it must be a number")
    _require(config, "lora_dropout", 0 <= config.lora_dropout < 1, "it must be in [0, 1)")
    steps = config.max_steps
    _require(config, "max_steps", steps == -1 or steps > 0, "it must be 1 or more, or -1 for none")
    good = 0 <= config.label_smoothing < 0.5
    _require(config, "label_smoothing", good, "it must be in [0, 0.5)")
    _require(config, "seed", 0 <= config.seed < 2**32, "it must be in [0, 4294967295]")
    for name in ("hub_model_id", "hub_private_repo"):
        if getattr(config, name) and not config.push_to_hub:
            raise ConfigError(f"--{name.replace('_', '-')} without --push-to-hub", "add it")
    if not config.data:
        raise ConfigError("no data", "name at least one file or hub id with --data")
    _ = config.reading  # refused here, before anything is read
    _check_betas(config)
    _check_method(config)
    if config.conditions:
        _check_conditioning(config)
    if config.method == "value":
        _check_value(config)


_OF_PAIRS = {
    "beta": None, "margin": 0.0, "label_smoothing": 0.0, "loss_type": "sigmoid",
    "length_normalize": False, "scale": 1.0, "columns": "", "pairs_per_prompt": 0,
}  # fmt: skip
"""Options that mean nothing where there are no pairs."""


def _check_value(config: TrainConfig) -> None:
    for name, default in _OF_PAIRS.items():
        if getattr(config, name) != default:
            raise ConfigError(
                f"--{name.replace('_', '-')} means nothing for --method value", "leave it out"
            )
    _require(config, "td_lambda", 0 <= config.td_lambda <= 1, "it must be in [0, 1]")
    if len(config.objective_names) > 1:
        raise ConfigError(
            "--method value with several objectives", "train one at a time, each on its own scores"
        )


def _require(config: TrainConfig, name: str, good: bool, hint: str) -> None:
    if not good:
        raise ConfigError(f"--{name.replace('_', '-')} is {getattr(config, name)}", hint)


def _check_betas(config: TrainConfig) -> None:
    betas = named_betas(config)
    unknown = [name for name in betas if name not in config.objective_names]
    if unknown:
        raise ConfigError(
            f"--beta {config.beta} has one for {unknown[0]!r}", "name only --objectives"
        )
    missing = [name for name in config.objective_names if betas and name not in betas]
    if missing:
        raise ConfigError(
            f"--beta {config.beta} has none for {missing[0] or 'an unnamed objective'}",
            "give one number, or NAME=NUMBER for each of --objectives",
        )
    values = list(betas.values()) if betas else [loss_beta(config)]
    _require(config, "beta", all(0 < v < math.inf for v in values), "it must be more than 0")


def _check_method(config: TrainConfig) -> None:
    """Refuse an option that the method would not look at."""
    given = {
        name for name, default in _OF_METHODS.items() if getattr(config, name) not in (default, [])
    }
    known = _OPTIONS.get(config.method, set())
    for name in sorted(given - known):
        methods = ", ".join(m for m, names in _OPTIONS.items() if name in names)
        raise ConfigError(
            f"--{name.replace('_', '-')} means nothing for --method {config.method}",
            f"it is for: {methods}",
        )


_OF_METHODS = {
    "reference": "none", "reward_head": "logprob",
    "preference_r": None, "preference_alpha": 0.5, "preference_draws": "batch", "describe": None,
    "global_weight": 1.0, "shift": True, "condition_dim": None, "td_lambda": 0.95,
}  # fmt: skip
_OPTIONS = {
    "genarm": {"reference", "reward_head"},
    "dpo": {"reference"},
    "value": {"td_lambda"},
    "parm": {"preference_r", "preference_alpha", "preference_draws"},
    "uniarm": {
        "preference_alpha", "preference_draws", "describe", "global_weight", "shift",
        "condition_dim",
    },
}  # fmt: skip


def _check_conditioning(config: TrainConfig) -> None:
    rank, features = config.preference_r, config.condition_dim
    good = rank is None or 0 < rank <= config.lora_r
    _require(config, "preference_r", good, f"it must be 1 to --lora-r ({config.lora_r})")
    _require(config, "condition_dim", features is None or features > 0, "it must be 1 or more")
    good = 0 <= config.global_weight < math.inf
    _require(config, "global_weight", good, "it must be 0 or more")
    if config.finetuning == "full":
        raise ConfigError(f"--method {config.method} is an adapter", "leave out --finetuning full")
    if config.method == "parm":
        _require(config, "lora_r", config.lora_r >= 2, "PARM needs a rank of 2 or more")
    if config.objectives and len(config.objective_names) == 1:
        raise ConfigError(
            f"--method {config.method} with the one objective {config.objectives}",
            "name several, or use --method genarm",
        )
    if config.method == "uniarm" and config.objectives:
        config.descriptions_of(config.objective_names)
