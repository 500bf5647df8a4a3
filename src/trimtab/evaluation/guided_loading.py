"""What lm-eval's `--model_args` name, as an engine. Imports PyTorch last, and never lm-eval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trimtab.arms.named import left_to_load, named_arms, objectives_of
from trimtab.engines.guides import contrasts, instructions, models_of
from trimtab.entries import as_entries, named_entries
from trimtab.errors import ConfigError
from trimtab.steering import Steering

if TYPE_CHECKING:
    from trimtab.engines.local import LocalEngine

AUTO = 32
"""Texts at once for lm-eval's batch size `auto`."""


def texts_at_once(batch_size: int | str) -> int:
    """Texts at once: a number, perhaps as text, or `auto` (`auto:4`)."""
    text = str(batch_size)
    if text.partition(":")[0] == "auto":
        return AUTO
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"batch_size is {batch_size!r}", "it must be 1 or more, or auto")
    return int(text)


def _entries(given: Any) -> Any:
    """A single `NAME=…` as a list."""
    return [given] if isinstance(given, str) else given


def load_guided(
    base: str | None,
    arm: Any,
    given: Mapping[str, Any],
    steering: Mapping[str, Any],
    *,
    revisions: Mapping[str, str] | None = None,
    describe: Mapping[str, str] | None = None,
    **loading: Any,
) -> LocalEngine:
    """The engine that is asked, once the steering is known to fit.

    Args:
        base: folder, GGUF file or hub id.
        arm: entries of ARMs.
        given: entries of `instruct`, `contrast` and `policy`.
        steering: preference, strength, budget and gate.
        revisions: of hub ids, by name.
        describe: further objectives of a UniARM.
        **loading: what else `load_engine` takes.
    """
    guides = {name: _entries(value) for name, value in given.items()}
    if not base:
        raise ConfigError("no base is named", "--model_args base=FOLDER")
    named = named_arms(as_entries(_entries(arm) or ()), revisions)
    opposed, instructed = contrasts(guides["contrast"]), instructions(guides["instruct"])
    policies = named_entries(as_entries(guides["policy"] or ()), "policy", "safe=FOLDER")
    objectives = [*objectives_of(named), *opposed, *instructed, *policies, *(describe or {})]
    Steering.of(objectives, **steering)
    from trimtab.engines.local.loading import load_engine  # PyTorch, once the rest is right

    left = left_to_load(revisions or {}, [*models_of(opposed), *policies])
    load: Callable[..., LocalEngine] = load_engine
    return load(
        str(base), named, revisions=left, describe=describe, instruct=guides["instruct"],
        contrast=guides["contrast"], policy=policies or None, **loading,
    )  # fmt: skip
