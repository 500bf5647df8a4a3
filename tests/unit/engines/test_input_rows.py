"""Rows of an input file as requests, and what a row may not say."""

from __future__ import annotations

from typing import Any

import pytest

from trimtab.engines.input_rows import request_of
from trimtab.engines.types import Request, Sampling
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
