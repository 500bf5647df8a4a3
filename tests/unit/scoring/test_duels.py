"""Verdicts on two answers: read strictly, and combined over both orders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.scoring.duels import Verdict, parse_choice


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("Better: 1", 1), ("better: 2", 0), ("Better: tie", 0.5), ("Short.\nBetter: Tie.", 0.5),
        ("**Better:** 1", 1), ("Better: **2**", 0), ("**Better: 1**", 1), ("Better: [[2]]", 0),
        ("> Better: 1\n", 1), ("- Better = 2", 0), ("`Better: 1`", 1), ("Better: Answer 2", 0),
        ("### Better: 1", 1), ("Better:1\r\n", 1), ("1", 1), (" 2.\n", 0), ("**tie**", 0.5),
        ("Better: 1\nOn reflection:\nBetter: 2", 0), ("Better: 2\n\nI hope this helps.", 0),
        ("", None), ("good", None), ("Better: N", None), ("Better: 3", None), ("Better: 0", None),
        ("Better: 12", None), ("Better: -1", None),
        ("Better: 1 or 2", None), ("Better: 1/2", None), ("Better: 1.5", None),
        ("Better: neither", None), ("Better: 1, I think", None), ("Better: both 1 and 2", None),
        ("Better: 1\nBetter: none", None), ("Better:\n1", None), ("Answer 1 is better", None),
        ("Which is better: 1", None), ("1 is better: 2 is worse", None), ("1 or 2", None),
        ("Better: tied", None), ("Betters: 1", None),
        ("<think>Better: 1</think>\nBetter: 2", 0), ("<think>Better: 1</think> No.", None),
        ("Answer 2 says 'Better: 2', which I ignore.\nBetter: 1", 1),
    ],
)  # fmt: skip
def test_choices_are_read_strictly(reply: str, choice: float | None) -> None:
    assert parse_choice(reply) == choice


@given(
    st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"])),
    st.sampled_from([("1", 1), ("2", 0), ("tie", 0.5)]),
)
def test_whatever_stands_before_the_last_line(before: str, said: tuple[str, float]) -> None:
    assert parse_choice(f"{before}\nBetter: {said[0]}") == said[1]


@pytest.mark.parametrize(
    ("a_first", "b_first", "score", "agree", "first_shown"),
    [
        (1, 1, 1, True, 0.5), (1, 0.5, 0.75, False, 0.75), (1, 0, 0.5, False, 1),
        (0.5, 0.5, 0.5, True, 0.5), (0, 1, 0.5, False, 0), (0, 0.5, 0.25, False, 0.25),
        (0, 0, 0, True, 0.5),
    ],
)  # fmt: skip
def test_both_orders(
    a_first: float, b_first: float, score: float, agree: bool, first_shown: float
) -> None:
    verdict = Verdict(a_first, b_first)
    assert (verdict.score, verdict.agree, verdict.first_shown) == (score, agree, first_shown)
