"""Streams of guides that have a reference: contrasts and instructions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from trimtab.engines.guides import REFERENCE, Contrast, Instruction
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


def instruction_stream(name: str, instruction: Instruction, base: Stream) -> Stream:
    """The base under an instruction, against the base: one more row of the same forward."""
    return replace(base, name=name, reference=base).under(instruction)
