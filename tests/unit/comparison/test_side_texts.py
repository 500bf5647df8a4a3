"""What is said of answers without a judge, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.comparison.sides import Side
from trimtab.comparison.texts import by_prompt, side_facts
from trimtab.scoring.score_files import Answer
from trimtab.stats import Estimate


def side(*seeds: list[str], reasons: list[str | None] | None = None) -> Side:
    answers = tuple(
        tuple(
            Answer("x", text, "row", finish_reason=reasons[i] if reasons else None)
            for i, text in enumerate(texts)
        )
        for texts in seeds
    )
    return Side("A", tuple(f"{i}.jsonl" for i in range(len(seeds))), answers)


def facts(given: Side, prompt_of: list[int]) -> dict[str, Estimate | None]:
    return side_facts(given, prompt_of, seed=0, resamples=100)


def value(found: Estimate | None) -> float:
    assert found is not None
    return found.value


def test_lengths_and_distinct_n_grams() -> None:
    """`a b a b` has 2 of 4 words, 2 of 3 pairs and 2 of 2 triples; `a b c` all, and one triple."""
    found = facts(side(["a b a b", "A b c"]), [0, 1])
    assert value(found["characters"]) == 6 and value(found["words"]) == 3.5
    assert value(found["distinct_1"]) == pytest.approx((2 / 4 + 1) / 2)
    assert value(found["distinct_2"]) == pytest.approx((2 / 3 + 1) / 2)
    assert value(found["distinct_3"]) == 1
    assert found["words"] and found["words"].n == 2


def test_each_prompt_counts_once() -> None:
    """Two answers of 1 word to a prompt and one of 4 to another: 2.5 words, not 2."""
    assert value(facts(side(["a", "b", "a b c d"]), [0, 0, 1])["words"]) == 2.5


def test_self_bleu() -> None:
    """1 where an answer comes twice; near 0 where nothing is shared; none of one answer.

    Of `a b c d` and `a b c e`: precisions 3/4, 2/3, 1/2 and, smoothed, ½ of 1/1.
    """
    same = facts(side(["the cat sat down", "the cat sat down"]), [0, 1])["self_bleu"]
    assert value(same) == pytest.approx(1)
    other = value(facts(side(["the cat sat down", "I do not know"]), [0, 1])["self_bleu"])
    assert other < 0.15
    near = facts(side(["a b c d", "a b c e"]), [0, 1])["self_bleu"]
    assert value(near) == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4))
    assert facts(side(["a"], ["a"]), [0])["self_bleu"] is None


def test_the_share_that_was_cut_off_where_all_rows_say() -> None:
    cut = facts(side(["a", "b"], ["c", "d"], reasons=["length", "stop"]), [0, 1])["cut_off"]
    assert value(cut) == 0.5
    assert facts(side(["a", "b"], reasons=["length", None]), [0, 1])["cut_off"] is None


def test_means_over_a_prompts_answers() -> None:
    values = np.array([[1.0, 3.0, np.nan, 5.0], [np.nan, 2.0, np.nan, 6.0]])
    found = by_prompt(values, [0, 0, 1, 2])
    np.testing.assert_array_equal(found, [[2.0, np.nan, 5.0], [2.0, np.nan, 6.0]])
