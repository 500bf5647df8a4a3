"""What the demo's objectives mean: two well-known scores that a reader can check.

`plain` is the Automated Readability Index (Senter & Smith, 1967) as textstat computes it, about the
school grade a text asks for, with its sign turned: characters per word and words per sentence
count, and no list of words. `warm` is VADER's compound sentiment (Hutto & Gilbert, 2014), the mean
over sentences, as its authors advise: the compound of a whole text goes to 1 with its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from trimtab.errors import MissingFileError

_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")


def require_scorers() -> None:
    """Refuse to begin where a scorer's library is missing.

    Raises:
        MissingFileError: textstat, vaderSentiment, or what reads the model's file is not installed.
    """
    for name in ("textstat", "vaderSentiment", "gguf"):
        if find_spec(name) is None:
            raise MissingFileError(f"{name} is not installed", "pip install 'trimtab[demo]'")


def grade(text: str) -> float:
    """Automated Readability Index: about a text's school grade; lower is plainer."""
    import textstat

    return float(textstat.automated_readability_index(text))


def plain(text: str) -> float:
    """How plain a text is: its readability grade, negative."""
    return -grade(text)


def warm(text: str) -> float:
    """VADER's compound sentiment in [-1, 1], the mean over sentences; 0 of no sentence."""
    sentences = [s for s in _SENTENCE.findall(text) if re.search(r"\w", s)]
    scores = [_vader().polarity_scores(s)["compound"] for s in sentences]
    return float(sum(scores) / len(scores)) if scores else 0.0


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


SCORERS: dict[str, Callable[[str], float]] = {"plain": plain, "warm": warm}
