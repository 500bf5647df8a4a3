"""Token colours say what guidance changed, and what else could have come."""

from __future__ import annotations

import re
from math import log

import pytest

from trimtab.engines.types import Alternative, TokenReport
from trimtab.evaluation.page import STRONGEST, coloured_tokens


def token(reward: float, mean: float, *alternatives: Alternative) -> TokenReport:
    return TokenReport(
        7, " <b>", log(0.25), {"kind": reward}, log(0.5), {"kind": mean}, alternatives
    )


def shade(page: str) -> str:
    found = re.search(r'class="t" style="background:([^"]*)"', page)
    assert found
    return found[1]


def test_the_colour_is_the_reward_less_its_mean_under_the_base() -> None:
    """A rare word has a low log-prob under everybody; it is blue where the ARM wants it."""
    rare = token(-6.0, -9.0)
    assert rare.advantages == {"kind": 3.0}
    assert shade(coloured_tokens([rare], {"kind": 1.0})) == "rgba(67,147,195,1.00)"
    unwanted = token(-2.0, -2.0 + STRONGEST / 2)
    assert shade(coloured_tokens([unwanted], {"kind": 2.0})) == "rgba(214,96,77,0.50)"


def test_without_a_weight_nothing_is_coloured() -> None:
    assert shade(coloured_tokens([token(-1.0, -3.0)], {})) == "none"


def test_several_arms_count_by_their_weights() -> None:
    both = TokenReport(7, "x", -1.0, {"a": -1.0, "b": -4.0}, -1.0, {"a": -4.0, "b": -1.0})
    assert shade(coloured_tokens([both], {"a": 0.75, "b": 0.25})) == "rgba(67,147,195,0.50)"


def test_the_alternatives_stand_beside_the_token_which_is_escaped() -> None:
    other = Alternative(8, "\n", log(0.125), {"kind": -1.5}, log(0.0625))
    own = Alternative(7, " <b>", log(0.25), {"kind": -2.0}, log(0.5))
    page = coloured_tokens([token(-2.0, -3.0, own, other)], {"kind": 1.0})
    assert "<b>" not in page
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>", page)
    assert rows == [
        ("␣&lt;b&gt;", "25.0%", "50.0%", "+1.0"),  # once, though it is among the best
        ("⏎", "12.5%", "6.2%", "+1.5"),
    ]


def test_where_the_gate_left_the_arms_out_the_base_alone_speaks() -> None:
    shut = TokenReport(7, "x", log(0.25), {}, log(0.25))
    page = coloured_tokens([shut], {"kind": 1.0})
    assert shade(page) == "rgba(214,96,77,0.00)"
    assert "<td>–</td>" in page
    assert pytest.approx(0) == sum(shut.advantages.values())
