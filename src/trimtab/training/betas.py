"""β_r of the loss: one for all objectives or one for each, and each method's default."""

from __future__ import annotations

from trimtab.errors import ConfigError, PreferenceError
from trimtab.steering import parse_preference
from trimtab.training.config import TrainConfig


def loss_beta(config: TrainConfig, objective: str = "") -> float:
    """β_r of one objective, with the method's default."""
    if config.beta is None:
        if config.judges:
            return 1.0
        if config.length_normalize:
            return 4.0
        return 0.01 if config.conditions else 0.1 if config.has_reference else 0.05
    named = named_betas(config)
    return named[objective] if named else float(config.beta)


def named_betas(config: TrainConfig) -> dict[str, float]:
    """β_r by objective; none where it is one number for all.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(config.beta, str):
        return {}
    try:
        return parse_preference(config.beta)
    except PreferenceError:
        raise ConfigError(
            f"cannot read --beta {config.beta}", "give a number, or NAME=NUMBER,NAME=NUMBER"
        ) from None
