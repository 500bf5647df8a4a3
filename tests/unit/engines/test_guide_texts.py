"""Contrasts and instructions as users write them."""

from __future__ import annotations

from typing import Any

import pytest

from trimtab.engines.guides import Contrast, Instruction, contrasts, instructions, own_instructions
from trimtab.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Use short words.", Instruction("Use short words.")),
        ("-0.5:Use long words.", Instruction("Use long words.", -0.5)),
        ("2:Say: yes", Instruction("Say: yes", 2.0)),
        ("Say a=b: yes", Instruction("Say a=b: yes")),
        ({"text": "Be kind.", "weight": 2}, Instruction("Be kind.", 2.0)),
        ({"text": "Be kind."}, Instruction("Be kind.")),
        (Instruction("Be kind.", 3.0), Instruction("Be kind.", 3.0)),
    ],
)
def test_instructions(given: Any, expected: Instruction) -> None:
    assert instructions({"plain": given}) == {"plain": expected}
    if isinstance(given, str):
        assert instructions([f"plain={given}"]) == {"plain": expected}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a/tuned:b", Contrast("a/tuned", "b")),
        ("-1:a:b", Contrast("a", "b", -1.0)),
        (("a", "b"), Contrast("a", "b")),
        ({"tuned": "a", "untuned": "b", "weight": 0.5}, Contrast("a", "b", 0.5)),
        (Contrast("a", "b"), Contrast("a", "b")),
    ],
)
def test_contrasts(given: Any, expected: Contrast) -> None:
    assert contrasts({"safe": given}) == {"safe": expected}
    if isinstance(given, str):
        assert contrasts([f"safe={given}"]) == {"safe": expected}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, Instruction("Be kind.", -0.5)),
        ("Be good.", Instruction("Be good.", -0.5)),
        ("2:Be good.", Instruction("Be good.", 2.0)),
        ({"weight": 2}, Instruction("Be kind.", 2.0)),
        ({"text": "Be good.", "weight": None}, Instruction("Be good.", -0.5)),
        (Instruction("Be good."), Instruction("Be good.")),
    ],
)
def test_instructions_of_a_request(given: Any, expected: Instruction) -> None:
    """What it leaves out is the engine's."""
    known = {"kind": Instruction("Be kind.", -0.5), "plain": Instruction("Use short words.")}
    assert own_instructions(known, {"kind": given}) == {**known, "kind": expected}
    assert own_instructions(known, None) == known


def test_none() -> None:
    assert instructions(None) == contrasts(None) == instructions([]) == {}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["plain"], "cannot read --instruct plain"),
        (["plain="], "cannot read --instruct plain="),
        (["plain=0:Use short words."], "the weight of 'plain' is 0"),
        (["plain=1e9:Use short words."], "the weight of 'plain' is"),
        (["plain=2:"], "'plain' has no text"),
        (["my plain=Use short words."], "'my plain' is no name"),
        (["a=x", "a=y"], "two of --instruct for 'a'"),
        ({"a": {"txt": "x"}}, "has no 'txt'"),
        ({"a": {"text": "x", "weight": "much"}}, "the weight of 'a' is 'much'"),
        ({"a": {"text": "x", "weight": float("nan")}}, "the weight of 'a' is nan"),
        ({"a": 3}, "cannot read the instruction 'a'"),
    ],
)
def test_bad_instructions(entries: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        instructions(entries)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["safe=a"], "'safe' is not of two models"),
        (["safe=a:b:c"], "'safe' is not of two models"),
        (["safe=a:"], "'safe' is not of two models"),
        (["safe=0:a:b"], "the weight of 'safe' is 0"),
        ({"safe": ("a", "b", "c")}, "'safe' is not of two models"),
        ({"safe": {"tuned": "a"}}, "'safe' is not of two models"),
        ({"safe": 3}, "'safe' is not of two models"),
    ],
)
def test_bad_contrasts(entries: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        contrasts(entries)
