"""Rows of an input file as requests, and what a row may not say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from trimtab.engines.guides import Instruction
from trimtab.engines.input_rows import request_of
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request
from trimtab.errors import TrimtabError

COMMON = Request("", strength=2.0, sampling=Sampling(seed=5))


def test_a_row_has_its_own_settings() -> None:
    """The others are the common ones; the seed of row 3 is the common one plus 3."""
    row = {"prompt": "x", "preference": "a=1,b=3", "top_k": "4", "temperature": 0.5}
    found = request_of(row, 3, COMMON, ["a", "b"])
    sampling = Sampling(seed=8, top_k=4, temperature=0.5)
    assert found == Request("x", "a=1,b=3", 2.0, sampling)
    assert request_of({"prompt": "x", "seed": 1, "strength": 0}, 3, COMMON, []) == Request(
        "x", None, 0, Sampling(seed=1)
    )


def test_a_row_has_instructions_of_its_own() -> None:
    """For those that there are; a table holds them as text."""
    known = {"plain": Instruction("Use short words.")}
    own: dict[str, Any] = {"plain": {"text": "Be brief.", "weight": -0.5}}
    for given in (own, json.dumps(own)):
        row = {"prompt": "x", "instructions": given}
        found = request_of(row, 0, COMMON, ["plain"], "row 1", known)
        assert found.instructions == own
    common = replace(COMMON, instructions=own)
    assert request_of({"prompt": "x"}, 0, common, ["plain"], "row 1", known).instructions == own


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"plan": "x"}, "row 2: no instruction is called 'plan'; there are: plain"),
        ({"plain": " "}, "row 2: the instruction 'plain' has no text"),
        ({"plain": {"weight": "much"}}, "row 2: the weight of 'plain' is 'much'"),
        ({"plain": {"weight": 0}}, "row 2: the weight of 'plain' is 0"),
        ({"plain": {"words": "x"}}, "row 2: the instruction 'plain' has no 'words'"),
        ({"plain": 3}, "row 2: cannot read the instruction 'plain'"),
        ("Be brief.", "row 2: instructions are 'Be brief.'"),
        ('{"plain": ', "row 2 has instructions '{\"plain\": '"),
    ],
    ids=str,
)
def test_bad_instructions_of_rows_are_named(given: Any, named: str) -> None:
    known = {"plain": Instruction("Use short words.")}
    with pytest.raises(TrimtabError) as refused:
        request_of({"prompt": "x", "instructions": given}, 1, COMMON, ["plain"], "row 2", known)
    assert named in str(refused.value)
    with pytest.raises(TrimtabError, match="no instruction is called 'plain'; there are: none"):
        request_of({"prompt": "x", "instructions": {"plain": "x"}}, 1, COMMON, ["a"], "row 2")


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({}, "row 2 has no `prompt`"),
        ({"prompt": 3}, "row 2 has a `prompt` that is neither text nor chat messages"),
        ({"prompt": ["hello"]}, "neither text nor chat messages"),
        ({"prompt": "x", "seed": "one"}, "row 2 has seed 'one'"),
        ({"prompt": "x", "seed": "soon"}, "row 2 has seed 'soon'"),
        ({"prompt": "x", "strength": "much"}, "row 2: strength is not a number"),
        ({"prompt": "x", "preference": "a=1,funny=1"}, "row 2: unknown objective 'funny'"),
        ({"prompt": "x", "preference": "a=-1,b=2"}, "row 2: the weight of 'a' is negative"),
        ({"prompt": "x", "top_p": 0}, "row 2: top_p is 0"),
    ],
    ids=str,
)
def test_bad_rows_are_named(row: dict[str, Any], named: str) -> None:
    with pytest.raises(TrimtabError) as refused:
        request_of(row, 1, COMMON, ["a", "b"], "row 2")
    assert named in str(refused.value)
