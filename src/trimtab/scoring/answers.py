"""Answers in rows, however they are written: what `score` and `compare` read."""

from __future__ import annotations

from trimtab.data.chats import prompt_of
from trimtab.data.pairs import Unusable
from trimtab.data.reading import pairs_in
from trimtab.data.rows import pairs_of
from trimtab.data.sources import Row
from trimtab.errors import DataError
from trimtab.models.messages import require_characters
from trimtab.scoring.score_files import Answer


def answers_in(place: str, row: Row) -> list[Answer]:
    """What a row asks to be scored: one response, or the two of a preference pair.

    Raises:
        DataError: it holds neither.
    """
    answer = answer_in(place, row)
    if answer is not None:
        return [answer]
    return [side for where, pair in pairs_in(row, place) for side in _sides(where, pair)]


def answer_in(place: str, row: Row) -> Answer | None:
    """The one answer of a row; None where it is no row of one.

    Such rows have a `prompt` and a `response`, or are of `generate` (`prompt`, `text` and
    `finish_reason`), or AlpacaEval's outputs (`instruction` and `output`).

    Raises:
        DataError: a row of one answer whose prompt or response is missing, or is no text.
    """
    column = _column(row)
    if column is None:
        return None
    prompt, response = prompt_of(row, place), row[column]
    if prompt is None or not isinstance(response, str):
        raise DataError(f"{place} has no text `prompt` and `{column}`", "mend the row")
    require_characters(response, place, column)
    return Answer(prompt, response, place, finish_reason=row.get("finish_reason"))


def _column(row: Row) -> str | None:
    """Where a row of one answer has it."""
    if "response" in row:
        return "response"
    if "text" in row and "finish_reason" in row:
        return "text"
    alpaca = "instruction" in row and "prompt" not in row and isinstance(row.get("output"), str)
    return "output" if alpaca else None


def _sides(place: str, row: Row) -> list[Answer]:
    try:
        pair = next(pairs_of(row, place))
    except Unusable as reason:
        raise DataError(f"{place} cannot be scored: {reason}", "mend or delete it") from None
    return [
        Answer(pair.prompt, pair.chosen, f"{place} chosen", pair.verbatim),
        Answer(pair.prompt, pair.rejected, f"{place} rejected", pair.verbatim),
    ]
