"""Cells of published tables: numbers as text, lists as JSON, markers of who won."""

from __future__ import annotations

import contextlib
import math
from typing import Any

from trimtab.data.literals import read_literal
from trimtab.data.sources import Row
from trimtab.errors import DataError

_NOTHING = {"", "n/a", "na", "nan", "none", "null", "-"}
_FIRST = {"model_a", "model a", "a", "response_a", "answer_a", "assistant_a"}
_SECOND = {"model_b", "model b", "b", "response_b", "answer_b", "assistant_b"}
_TIES = {"tie", "tie (bothbad)", "both_bad", "bothbad", "both bad", "both_good", "draw", "equal"}

UNJUDGED = (None, None)
TIE = (0.0, 0.0)
FIRST = (1.0, 0.0)
SECOND = (0.0, 1.0)
Verdict = tuple[float | None, float | None]


def number(value: Any, place: str, column: str) -> float | None:
    """A number, also where it stands as text; None where there is none (null, NaN, "N/A").

    Raises:
        DataError: it is something else.
    """
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in _NOTHING:
            return None
        if text.lower() in ("true", "false"):
            return float(text.lower() == "true")
        with contextlib.suppress(ValueError):
            value = float(text)
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise DataError(f"{place} has {value!r} in `{column}`, which is no number", "mend the row")
    return None if math.isnan(value) else float(value)


def text(row: Row, column: str) -> str:
    """A text; a cell without one is the empty text, and a number or a truth value as written."""
    value = row.get(column)
    return "" if value is None else str(value)


def objects(value: Any, place: str, column: str) -> list[Row]:
    """A list of objects, also where it stands as text, or turned around as `datasets` does.

    Raises:
        DataError: it is something else.
    """
    parsed = literal(value)
    if isinstance(parsed, dict) and parsed and all(isinstance(v, list) for v in parsed.values()):
        parsed = [
            dict(zip(parsed, values, strict=True)) for values in zip(*parsed.values(), strict=False)
        ]
    if not isinstance(parsed, list) or not all(isinstance(item, dict) for item in parsed):
        raise DataError(f"{place} has a `{column}` that is no list of objects", "mend the row")
    return parsed


def literal(value: Any) -> Any:
    """What a text that begins like a list or an object spells; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return read_literal(value)
        except ValueError:
            return value
    return value


def index_verdict(value: Any, place: str, column: str, first: int = 0) -> Verdict:
    """Which of two is better, by its index: `first` is the first one's.

    Raises:
        DataError: it is neither index.
    """
    index = number(value, place, column)
    if index is None:
        return UNJUDGED
    if index not in (first, first + 1):
        raise DataError(
            f"{place} has {value!r} in `{column}`", f"it must be {first} or {first + 1}"
        )
    return FIRST if index == first else SECOND


def strength_verdict(value: Any, place: str, column: str, most: int = 3) -> Verdict:
    """A signed strength: below 0 the first is better, above 0 the second (HelpSteer2, 3).

    Raises:
        DataError: beyond ± `most`.
    """
    strength = number(value, place, column)
    if strength is None:
        return UNJUDGED
    if abs(strength) > most:
        raise DataError(f"{place} has {value!r} in `{column}`", f"it must be -{most} to {most}")
    return TIE if strength == 0 else FIRST if strength < 0 else SECOND


def winner_verdict(value: Any, place: str, column: str = "winner") -> Verdict:
    """Who won, in an arena's words. A number but 0.5 could mean either side: it is refused.

    Raises:
        DataError: a word that is not known.
    """
    word = str("" if value is None else value).strip().lower()
    if word in _NOTHING:
        return UNJUDGED
    if word.startswith("tie") or word in _TIES or word in ("0.5", ".5"):
        return TIE
    if word in _FIRST | _SECOND:
        return FIRST if word in _FIRST else SECOND
    raise DataError(
        f"{place} has {value!r} in `{column}`", "it must be model_a, model_b or tie, or a, b or tie"
    )
