"""Streams of guides that have a reference: contrasts, instructions, ARMs measured against one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trimtab.engines.guides import REFERENCE, Contrast, Instruction
from trimtab.engines.local.streams import Stream
from trimtab.engines.policies import Amateur
from trimtab.errors import ConfigError


def contrast_stream(name: str, contrast: Contrast, parts: Mapping[str, Stream]) -> Stream:
    """The tuned model's stream, against the untuned one's.

    Args:
        name: of the guide.
        contrast: as it was asked for.
        parts: streams of its models, by their names (`models_of`).
    """
    reference = replace(parts[name + REFERENCE], scale=1.0)
    return replace(parts[name], scale=contrast.weight, reference=reference)


def policy_stream(part: Stream, base: Stream) -> Stream:
    """A policy: at strength 1 it is what tokens are drawn from, at less the base has its share.

    `(1 − s) log π_b + s log π_i` is the base with the reward log π_i − log π_b at strength s.
    """
    return replace(part, scale=1.0, reference=base, policy=True)


def amateur_stream(part: Stream, amateur: Amateur) -> Stream:
    """What the base is contrasted with, within what it finds plausible."""
    return replace(part, scale=1.0, amateur=amateur)


def instruction_stream(name: str, instruction: Instruction, base: Stream) -> Stream:
    """The base under an instruction, against the base: one more row of the same forward."""
    return replace(base, name=name, reference=base).under(instruction)


def against_start(arm: Stream, start: Any, base: Stream) -> Stream:
    """An ARM's stream, against the model that its training started from.

    The start reads what the ARM reads. Where it is the base, and reads the same, it is the base's
    own row and costs nothing.

    Args:
        arm: the ARM's stream.
        start: that model.
        base: the base's stream.

    Raises:
        ConfigError: a start that gives other tokens than the ARM.
    """
    heads = [m.config.get_text_config().vocab_size for m in (arm.model, start)]
    if heads[0] != heads[1]:
        raise ConfigError(
            f"the ARM {arm.name} has {heads[0]} tokens, the model that it started from {heads[1]}",
            "train it again",
        )
    name = arm.name + REFERENCE
    reference = replace(arm, name=name, model=start, adapter=None, scale=1.0, reference=None)
    if start is base.model and reads_alike(arm.tokenizer, base.tokenizer):
        reference = replace(reference, tokenizer=base.tokenizer)
    return replace(arm, reference=reference)


def reads_alike(one: Any, other: Any) -> bool:
    """Whether two tokenizers are known to make the same tokens of every prompt."""
    if one is other:
        return True
    texts = [
        backend.to_str() if (backend := getattr(t, "backend_tokenizer", None)) else None
        for t in (one, other)
    ]
    facts = [(t.chat_template, t.special_tokens_map) for t in (one, other)]
    return texts[0] is not None and texts[0] == texts[1] and facts[0] == facts[1]
