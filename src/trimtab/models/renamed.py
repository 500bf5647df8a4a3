"""What transformers calls otherwise since 5.24: found out by looking, in this one place.

The old names still work there, with a warning, and go in transformers 6; the new ones do not exist
before. Which of them a version has is asked of the version itself, never of its number.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import fields
from typing import Any

from trimtab.models.protocols import CausalLM

_CACHES = ("cache", "cache_params", "past_key_values")


def cache_name(names: Container[str]) -> str:
    """What a model calls its cache, among the parameters of its forward or the keys of its output.

    Both call it the same. Where neither name is there it is `past_key_values`, which such a model
    does not take.
    """
    return next((name for name in _CACHES if name in names), _CACHES[-1])


def checkpointing_options(on: bool) -> dict[str, Any]:
    """`TrainingArguments` that run layers again in the backward pass instead of keeping them."""
    import transformers

    known = {field.name for field in fields(transformers.TrainingArguments)}
    name = "activation_checkpointing"
    name = name if name in known else "gradient_checkpointing"
    return {name: on, f"{name}_kwargs": {"use_reentrant": False}}


def runs_layers_again(model: CausalLM) -> bool:
    """Whether any layer of a model is run again in the backward pass."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
