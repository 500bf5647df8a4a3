"""TRL's preference formats, HH-RLHF dialogues and text lists, normalised to `Pair`.

A row is *malformed* when it is not a preference row at all (`DataError`), and *unusable* when it is
well formed but says nothing that can be learned (`Unusable`, counted and reported).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

from trimtab.data.chats import (
    system_of,
    text_of,
    tools_of,
    with_system,
    with_tools,
)
from trimtab.data.literals import read_literal
from trimtab.data.pairs import Comparison, Pair, Unusable
from trimtab.data.sides import sides_of
from trimtab.data.sources import Row
from trimtab.errors import DataError
from trimtab.models.messages import require_characters

SUBSET = "(subset)"
"""Where `read_preferences` puts the part that a row belongs to: no column is called so."""


def pairs_of(row: Row, place: str = "") -> Iterator[Pair]:
    """Yield the pairs in a row: one, or one per objective where it carries labels or scores.

    Raises: as `comparison_of`.
    """
    both = comparison_of(row, place)
    for objective, better in both.verdicts.items():
        sides = (both.chosen, both.rejected) if better == 0 else (both.rejected, both.chosen)
        yield Pair(both.prompt, *sides, objective, place, both.verbatim, both.subset)


def comparison_of(row: Row, place: str = "") -> Comparison:
    """The two responses in a row and how they were judged.

    Raises:
        DataError: a column is missing, of the wrong type, or holds what is no text.
        Unusable: an empty side, sides that are the same, a tie, dialogues that part before the last
            turn.
    """
    row = _two_texts(read_cells(row, place), place)
    for column in ("chosen", "rejected"):
        if row.get(column) is None:
            raise DataError(f"{place} has no `{column}`", "every row needs `chosen` and `rejected`")
    prompt, chosen, rejected, verbatim = sides_of(row, place)
    if chosen.strip() == rejected.strip():
        raise Unusable("both sides are the same")
    if not chosen.strip() or not rejected.strip():
        raise Unusable("one side is empty")
    verdicts, subset = dict(_verdicts(row, place)), str(row.get(SUBSET) or "")
    if system := system_of(row, place):
        if verbatim:
            raise DataError(f"{place} has `system` and no `prompt`", "give it a prompt of its own")
        prompt = with_system(prompt, system)
    if tools := tools_of(row, place):
        if verbatim:
            raise DataError(f"{place} has `tools` and no `prompt`", "give it a prompt of its own")
        prompt = with_tools(prompt, tools)
    return Comparison(prompt, chosen, rejected, "", place, verbatim, subset, verdicts)


def _two_texts(row: Row, place: str) -> Row:
    """`{"text": [chosen, rejected], "score": [1, 0]}` as chosen and rejected columns."""
    texts = row.get("text")
    if "chosen" in row or not isinstance(texts, list):
        return row
    if len(texts) != 2:
        raise DataError(f"{place} has {len(texts)} texts", "`text` must be [chosen, rejected]")
    score = row.get("score")
    if score is not None and not _are_scores(score):
        raise DataError(f"{place} has score {score!r}", "`score` must be two numbers")
    if score is not None and score[0] == score[1]:
        raise Unusable("a tie")
    if score is not None and score[1] > score[0]:
        texts = texts[::-1]
    rest = {key: value for key, value in row.items() if key not in ("text", "score")}
    return {**rest, "chosen": texts[0], "rejected": texts[1]}


def _verdicts(row: Row, place: str) -> Iterator[tuple[str, int]]:
    """(objective, index of the better side) for each objective that the row is judged on."""
    labels, scores = row.get("labels"), row.get("scores")
    if not isinstance(labels, dict) and not isinstance(scores, dict):
        yield str(row.get("objective") or ""), 0
        return
    verdicts = labels if isinstance(labels, dict) else cast(Row, scores)
    judged = {name: verdict for name, verdict in verdicts.items() if verdict is not None}
    if not judged:
        raise Unusable("judged on no objective")
    if verdicts is labels:
        for name, label in judged.items():
            if label not in (0, 1):
                raise DataError(
                    f"{place} has label {label!r} for {name!r}",
                    "a label is 0 (chosen is better) or 1 (rejected is better)",
                )
            yield name, int(label)
        return
    for name, pair in judged.items():
        if not _are_scores(pair):
            raise DataError(
                f"{place} has scores {pair!r} for {name!r}", "give two numbers: [chosen, rejected]"
            )
    if all(pair[0] == pair[1] for pair in judged.values()):
        raise Unusable("a tie" if "" in judged else "a tie on every objective")
    yield from ((name, int(b > a)) for name, (a, b) in judged.items() if a != b)


def _are_scores(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(score, int | float) and not math.isnan(score) for score in value)
    )


_TEXTS = ("prompt", "chosen", "rejected", "text", "objective", "labels", "scores", "system")


def read_cells(row: Row, place: str) -> Row:
    """A row whose cells are the same whatever file it came from.

    In tables, labels and scores are text, and chats may be: they are read. Other texts stay.

    Raises:
        DataError: a cell that cannot be read, or text that cannot be written as UTF-8.
    """
    cells = dict(row)
    for column in ("labels", "scores", "score", "text"):
        cells[column] = _read_cell(row.get(column), place, column)
    texts = cells["text"]
    if isinstance(texts, list):
        cells["text"] = [text_of(text, place, "text") for text in texts]
    for column in ("prompt", "chosen", "rejected"):
        cells[column] = text_of(row.get(column), place, column)
    for column in _TEXTS:
        require_characters(cells.get(column), place, column)
    return {column: value for column, value in cells.items() if value is not None}


def _read_cell(value: Any, place: str, column: str) -> Any:
    """What a text that begins like a list or an object spells."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return read_literal(value)
    except ValueError:
        if column == "text":
            return value
        raise DataError(f"{place} has `{column}` that cannot be read", "write JSON") from None
