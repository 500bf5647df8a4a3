"""TRL's preference formats, HH-RLHF dialogues and text lists, normalised to `Pair`.

A row is *malformed* when it is not a preference row at all (`DataError`), and *unusable* when it is
well formed but says nothing that can be learned (`Unusable`, counted and reported).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

from trimtab.data.chats import (
    DIALOGUE_START,
    messages_of,
    open_dialogue,
    prompt_of,
    system_of,
    text_of,
    tools_of,
    turns_of,
    with_system,
    with_tools,
)
from trimtab.data.literals import read_literal
from trimtab.data.pairs import Comparison, Pair, RowReport, Unusable
from trimtab.data.reading import EVERYTHING, Reading, read_preferences
from trimtab.data.sources import Row
from trimtab.errors import DataError
from trimtab.models.messages import Message, Prompt, require_characters

T = TypeVar("T")

_TEXTS = ("prompt", "chosen", "rejected", "text", "objective", "labels", "scores", "system")


def read_pairs(
    sources: Sequence[str],
    objective: str = "",
    *,
    skip_bad_rows: bool = False,
    reading: Reading = EVERYTHING,
) -> tuple[list[Pair], RowReport]:
    """Read the pairs of one objective from files or hub data sets.

    Args:
        sources: what `read_rows` takes.
        objective: the objective wanted. Rows of another objective are passed over; rows of data
            that name no objective all belong to it. "" takes rows as they stand.
        skip_bad_rows: count malformed rows as unusable instead of refusing the data.
        reading: columns by hand, pairs per prompt.

    Raises:
        DataError: a malformed row, no usable pair, or an objective that the data do not have.
    """
    pairs: list[Pair] = []
    report = RowReport()
    seen: set[str] = set()

    def own_pairs(row: Row, place: str) -> tuple[str, Row, list[Pair]]:
        return place, row, list(pairs_of(row, place))

    how: dict[str, Any] = {"skip_bad_rows": skip_bad_rows, "reading": reading}
    for place, row, found in usable_rows(sources, own_pairs, report, **how):
        seen.update(pair.objective for pair in found)
        if _is_tied(row, place, objective):
            report.leave_out(f"a tie on {objective!r}", place)
        pairs += [p for p in found if not objective or p.objective in ("", objective)]
    if not pairs:
        named = sorted(seen - {""})
        if objective and named:
            raise DataError(
                f"the data have no objective {objective!r}", f"they have: {', '.join(named)}"
            )
        reasons = "; ".join(report.reasons()) or "no rows"
        raise DataError(f"no usable pair in {', '.join(map(str, sources))}", reasons)
    return pairs, report


def usable_rows(
    sources: Sequence[str],
    read: Callable[[Row, str], T],
    report: RowReport,
    *,
    skip_bad_rows: bool = False,
    reading: Reading = EVERYTHING,
) -> Iterator[T]:
    """Yield what `read(row, place)` makes of every pair's row that can be used.

    Args:
        sources: what `read_rows` takes.
        read: raises `Unusable` for a row that teaches nothing, `DataError` for a malformed one.
        report: where rows are counted, and those that are left out.
        skip_bad_rows: count malformed rows as unusable instead of refusing the data.
        reading: columns by hand, pairs per prompt.

    Raises:
        DataError: a malformed row, without `skip_bad_rows`.
    """
    for source in sources:
        for place, row in read_preferences(source, reading, report):
            try:
                if isinstance(row, Exception):
                    raise row
                found = read(row, place)
            except Unusable as reason:
                report.leave_out(str(reason), place)
            except DataError as error:
                if not skip_bad_rows:
                    raise
                report.leave_out(wrong := error.args[0].removeprefix(f"{place} "), place)
                report.malformed.add(wrong)
            else:
                yield found


def pairs_of(row: Row, place: str = "") -> Iterator[Pair]:
    """Yield the pairs in a row: one, or one per objective where it carries labels or scores.

    Raises: as `comparison_of`.
    """
    both = comparison_of(row, place)
    for objective, better in both.verdicts.items():
        sides = (both.chosen, both.rejected) if better == 0 else (both.rejected, both.chosen)
        yield Pair(both.prompt, *sides, objective, place, both.verbatim)


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
    prompt, chosen, rejected, verbatim = _sides(row, place)
    if chosen.strip() == rejected.strip():
        raise Unusable("both sides are the same")
    if not chosen.strip() or not rejected.strip():
        raise Unusable("one side is empty")
    verdicts = dict(_verdicts(row, place))
    if system := system_of(row, place):
        if verbatim:
            raise DataError(f"{place} has `system` and no `prompt`", "give it a prompt of its own")
        prompt = with_system(prompt, system)
    if tools := tools_of(row, place):
        if verbatim:
            raise DataError(f"{place} has `tools` and no `prompt`", "give it a prompt of its own")
        prompt = with_tools(prompt, tools)
    return Comparison(prompt, chosen, rejected, "", place, verbatim, verdicts)


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


def _is_tied(row: Row, place: str, objective: str) -> bool:
    """Whether a row that is judged by scores says nothing on this one objective."""
    row = read_cells(row, place)
    scores = row.get("scores")
    if isinstance(row.get("labels"), dict) or not isinstance(scores, dict):
        return False
    pair = scores.get(objective)
    return pair is not None and bool(pair[0] == pair[1])


def _sides(row: Row, place: str) -> tuple[Prompt, str, str, bool]:
    """Prompt, chosen, rejected, and whether the prompt is raw text cut anywhere."""
    prompt = prompt_of({"prompt": row.get("prompt")}, place)
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            if DIALOGUE_START.match(chosen) and DIALOGUE_START.match(rejected):
                return *_part(turns_of(chosen), turns_of(rejected)), False
            return *_common_text(chosen, rejected), True
        if isinstance(prompt, str) and DIALOGUE_START.match(prompt):
            return open_dialogue(prompt), chosen.strip(), rejected.strip(), False
        return prompt, chosen, rejected, False
    sides = messages_of(chosen, place, "chosen"), messages_of(rejected, place, "rejected")
    if prompt is not None:
        before = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
        sides = _after(before, sides[0]), _after(before, sides[1])
    return *_part(*sides), False


def _after(before: list[Message], side: list[Message]) -> list[Message]:
    """A side that repeats the prompt (perhaps after a system turn) stays; an answer follows it."""
    ends = (i for i in range(len(side)) if side[: i + 1][-len(before) :] == before)
    return side if next(ends, None) is not None else before + side


def _part(chosen: list[Message], rejected: list[Message]) -> tuple[Prompt, str, str]:
    """The shared chat and the two last assistant turns."""
    if not chosen or not rejected:
        raise Unusable("no dialogue turns")
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise Unusable("the last turn is not the assistant's")
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("the two dialogues part before the last turn")
    if len(chosen) == 1:
        raise Unusable("no prompt before the answer")
    if "tool_calls" in {**chosen[-1], **rejected[-1]}:
        raise Unusable("an answer calls tools: only its text could be read")
    return chosen[:-1], chosen[-1]["content"], rejected[-1]["content"]


def _common_text(chosen: str, rejected: str) -> tuple[str, str, str]:
    """TRL's implicit prompt of plain texts: the longest common prefix, less a trailing space."""
    length = next(
        (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
        min(len(chosen), len(rejected)),
    )
    if length and chosen[length - 1] == " ":
        length -= 1
    if not length:
        raise Unusable("no prompt: the two texts share no beginning")
    return chosen[:length], chosen[length:], rejected[length:]
