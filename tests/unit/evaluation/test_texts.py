"""Numbers of a text, worked out by hand."""

from __future__ import annotations

from trimtab.evaluation.texts import distinct


def test_distinct_is_the_share_of_different_n_grams() -> None:
    assert distinct("the cat the cat the dog") == 3 / 5  # the-cat, cat-the, the-dog
    assert distinct("The cat THE cat", 1) == 2 / 4
    assert distinct("a b c") == 1.0


def test_a_text_without_n_grams_repeats_nothing() -> None:
    assert distinct("") == distinct("once") == 1.0
