"""Streams of guides that have a reference: contrasts and instructions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from trimtab.engines.guides import REFERENCE, Amateur, Contrast, Instruction
from trimtab.engines.local.streams import Stream


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
