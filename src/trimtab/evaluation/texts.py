"""What can be said of a text without a model."""

from __future__ import annotations


def distinct(text: str, n: int = 2) -> float:
    """Share of different n-grams among a text's n-grams of words (Li et al., 2016), in [0, 1].

    Words are what white space parts, in lower case; a text of fewer than n words has 1.
    """
    words = text.lower().split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
