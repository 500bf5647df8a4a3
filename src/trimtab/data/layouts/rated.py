"""Layouts of several rated or ranked answers to a prompt, of which pairs are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimtab.data.layouts.cells import literal, number, objects, text
from trimtab.data.layouts.judged import Judged
from trimtab.data.layouts.two_sides import helpsteer_prompt
from trimtab.data.sources import Row

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def ultrafeedback(row: Row, place: str) -> Judged:
    """UltraFeedback (arXiv 2310.01377): completions rated on four aspects, and an overall score.

    Each was written under a system prompt of its own, which is no part of the question: it is left
    out, as in the binarized editions.
    """
    completions = objects(row["completions"], place, "completions")
    scores: dict[str, list[float | None]] = {
        aspect: [_rating(item.get("annotations"), aspect, place) for item in completions]
        for aspect in ASPECTS
    }
    scores["overall_score"] = [
        number(item.get("overall_score"), place, "overall_score") for item in completions
    ]
    judged = {name: each for name, each in scores.items() if any(s is not None for s in each)}
    answers = [text(item, "response") for item in completions]
    return Judged(text(row, "instruction"), answers, judged)


def _rating(annotations: Any, aspect: str, place: str) -> float | None:
    """The rating of one aspect. Early files hold it in a list of one; a cell may hold text."""
    rating = literal(annotations)
    rating = literal(rating.get(aspect)) if isinstance(rating, Mapping) else None
    if isinstance(rating, list) and len(rating) == 1:
        rating = rating[0]
    return number(rating.get("Rating"), place, aspect) if isinstance(rating, Mapping) else None


def helpsteer(row: Row, place: str) -> Judged:
    """HelpSteer and HelpSteer2 (arXiv 2406.08673): one response a row, rated 0 to 4."""
    scores = {name: [number(row[name], place, name)] for name in ATTRIBUTES if name in row}
    return Judged(helpsteer_prompt(row), [text(row, "response")], scores, [place])


def nectar(row: Row, place: str) -> Judged:
    """Nectar: seven answers, ranked from 1, the best."""
    answers = objects(row["answers"], place, "answers")
    ranks = [number(item.get("rank"), place, "rank") for item in answers]
    scores = [None if rank is None else -rank for rank in ranks]
    return Judged(row["prompt"], [text(item, "answer") for item in answers], {"": scores})
