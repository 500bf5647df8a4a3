"""β_r of the loss: one for all objectives or one for each, and each method's default."""

from __future__ import annotations

from trimtab.errors import ConfigError, PreferenceError
from trimtab.steering import parse_preference
from trimtab.training.config import TrainConfig


def loss_beta(config: TrainConfig, objective: str = "") -> float:
    """β_r of one objective, with the method's default."""
    if config.beta is None:
        if config.method == "trajectory":
            return 1.0
        of_a_sum = 0.05 if config.method == "genarm" else 0.01
        return 4.0 if config.length_normalize else of_a_sum
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
