"""What the demo's objectives mean: rules that a reader can check by eye."""

from __future__ import annotations

import re
from collections.abc import Callable

CHEERFUL_WORDS = frozenset((
    "beautiful", "bright", "celebrate", "cheered", "cheerful", "delicious", "enjoy", "enjoyed",
    "excited", "exciting", "favorite", "friend", "friends", "fun", "funny", "giggle", "giggled",
    "glad", "good", "great", "happily", "happy", "hug", "hugged", "joy", "joyful", "kind",
    "laugh", "laughed", "laughing", "love", "loved", "loves", "lovely", "nice", "party", "play",
    "played", "playing", "proud", "smile", "smiled", "smiles", "smiling", "sweet", "thank",
    "thanked", "wonderful", "yay",
))  # fmt: skip

_WORD = re.compile(r"[a-z]+")
_SPEECH = re.compile(r'"[^"\n]{2,}(?:"|$)')


def cheerful(text: str) -> float:
    """Number of *different* cheerful words, so that repeating one does not help."""
    return float(len(CHEERFUL_WORDS & set(_WORD.findall(text.lower()))))


def dialogue(text: str) -> float:
    """Number of passages in direct speech: between two double quotes, or cut off at the end."""
    return float(len(_SPEECH.findall(text)))


def words(text: str) -> float:
    """Number of words: a cost where short answers are wanted."""
    return float(len(text.split()))


RULES: dict[str, Callable[[str], float]] = {"cheerful": cheerful, "dialogue": dialogue}
UNITS = {"cheerful": "different cheerful words", "dialogue": "passages of direct speech"}
