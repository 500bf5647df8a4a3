"""Layouts of chosen and rejected answers under other names, or beside a chat of another kind."""

from __future__ import annotations

from typing import Any

from trimtab.data.chats import DIALOGUE_START, alpaca_prompt, text_of
from trimtab.data.layouts.cells import literal, text
from trimtab.data.layouts.turns import as_openai
from trimtab.data.pairs import Unusable
from trimtab.data.sources import Row
from trimtab.errors import DataError

SIDES = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("response_j", "response_k"),
)
"""Names of the better and the worse answer (TRL; argilla; StackExchange pairs)."""

PROMPTS = ("question", "query", "instruction", "input")
"""Other names of the prompt. `instruction` may have an `input`."""

CHATS = ("conversations", "messages")

VERDICTS = ("objective", "labels", "scores")


def fits_sharegpt(row: Row) -> bool:
    """A chat up to the question, and each answer as one turn or a text, not as a whole chat."""
    if row.get("prompt") is not None or _chat_column(row) is None:
        return False
    sides = (row.get("chosen"), row.get("rejected"))
    return not any(side is None or _is_whole(side) for side in sides)


def sharegpt(row: Row, place: str) -> Row:
    """LLaMA-Factory's ShareGPT style, axolotl's chats: `conversations` or `messages`, two turns."""
    sides = {side: as_openai(row[side]) for side in ("chosen", "rejected")}
    return {
        **_verdicts(row),
        "prompt": as_openai(row[str(_chat_column(row))]),
        **{side: [turn] if isinstance(turn, dict) else turn for side, turn in sides.items()},
    }


def _chat_column(row: Row) -> str | None:
    return next((column for column in CHATS if row.get(column)), None)


def fits_alpaca(row: Row) -> bool:
    """`instruction` and `output`, which holds two answers: LLaMA-Factory's older files."""
    output = literal(row.get("output"))
    return "instruction" in row and isinstance(output, list) and len(output) == 2


def alpaca(row: Row, place: str) -> Row:
    """LLaMA-Factory's Alpaca style with `output: [chosen, rejected]`."""
    chosen, rejected = literal(row["output"])
    prompt = _prompt(row, "instruction")
    return {**_verdicts(row), "prompt": prompt, "chosen": chosen, "rejected": rejected}


def fits_named(row: Row) -> bool:
    """A pair whose prompt or whose answers have another name than TRL's."""
    sides = _sides(row)
    if sides is None:
        return False
    if sides == SIDES[0]:
        whole = any(_is_whole(row[side]) for side in sides)
        return row.get("prompt") is None and _has_question(row) and not whole
    return row.get("prompt") is not None or _has_question(row)


def named(row: Row, place: str) -> Row:
    """`question`, `instruction` (with `input`) or `query` for the prompt, and other names of sides.

    Raises:
        DataError: two columns could be the prompt.
        Unusable: that column is empty; what the two answers share is no prompt then.
    """
    sides = _sides(row)
    assert sides is not None  # it fits
    prompt = row.get("prompt")
    if prompt is None:
        columns = _prompts(row)
        if not columns:
            raise Unusable("the prompt is empty")
        if len(columns) > 1:
            raise DataError(
                f"{place} has `{columns[0]}` and `{columns[1]}`, and either could be the prompt",
                f"say which: --columns prompt={columns[0]}",
            )
        prompt = _prompt(row, columns[0])
    return {**_verdicts(row), "prompt": prompt, "chosen": row[sides[0]], "rejected": row[sides[1]]}


def _verdicts(row: Row) -> Row:
    """How a pair was judged. Sides that argilla's orca pairs call a tie in `status` say nothing."""
    verdicts = {column: row[column] for column in VERDICTS if column in row}
    if str(row.get("status")).lower() == "tie" and not verdicts.keys() & {"labels", "scores"}:
        verdicts["scores"] = {text(row, "objective"): [0.0, 0.0]}
    return verdicts


def _sides(row: Row) -> tuple[str, str] | None:
    return next((pair for pair in SIDES if all(row.get(c) is not None for c in pair)), None)


def _has_question(row: Row) -> bool:
    return any(column in row for column in PROMPTS)


def _prompts(row: Row) -> list[str]:
    columns = [column for column in PROMPTS if row.get(column) not in (None, "", [])]
    return ["instruction"] if columns == ["instruction", "input"] else columns


def _prompt(row: Row, column: str) -> Any:
    """The prompt in a column; earlier turns, as LLaMA-Factory's `history` has them, before it."""
    prompt = alpaca_prompt(row) if column == "instruction" else row[column]
    earlier = literal(row.get("history"))
    if not (isinstance(earlier, list) and earlier and isinstance(prompt, str)):
        return prompt
    messages: list[Row] = []
    for asked, answered in earlier:
        messages += [{"role": "user", "content": asked}]
        messages += [{"role": "assistant", "content": answered}]
    return [*messages, {"role": "user", "content": prompt}]


def _is_whole(side: Any) -> bool:
    """Whether a side is a chat that holds its own prompt."""
    side = as_openai(text_of(side, "", "chosen"))
    if isinstance(side, str):
        return bool(DIALOGUE_START.match(side))
    return isinstance(side, list) and len(side) > 1


def fits_trl(row: Row) -> bool:
    """TRL's columns: the row that has one of them is meant to have both."""
    return "chosen" in row or "rejected" in row


def fits_dialogues(row: Row) -> bool:
    """Two whole dialogues, as HH-RLHF writes them."""
    sides = [row.get(side) for side in SIDES[0]]
    whole = all(isinstance(side, str) and DIALOGUE_START.match(side) for side in sides)
    return whole and row.get("prompt") is None


def trl(row: Row, place: str) -> Row:
    """TRL's preference formats and HH-RLHF: as they are.

    Raises:
        DataError: `chosen` names a side and is no answer.
    """
    said = row.get("chosen")
    marks = {"a", "b", "0", "1", "2", "model_a", "model_b", *row}
    if _has_two_answers(row) and str(said).strip().lower() in marks:
        raise DataError(
            f"{place} has {said!r} in `chosen`, which names an answer and is none",
            "say so: --columns winner=chosen (with response_a and response_b)",
        )
    return {
        **row,
        **{
            column: _from_sharegpt(row[column]) for column in ("prompt", *SIDES[0]) if column in row
        },
        **_verdicts(row),
    }


def _from_sharegpt(value: Any) -> Any:
    """ShareGPT's turns as TRL's, where there are such; anything else as it is."""
    items = value if isinstance(value, list) else [value]
    spelt = all(isinstance(item, dict) and {"from", "value"} <= item.keys() for item in items)
    return as_openai(value) if spelt else value


def _has_two_answers(row: Row) -> bool:
    names = ("response_a", "response_b"), ("response_0", "response_1"), ("response1", "response2")
    more = ("response_1", "response_2"), ("answer_a", "answer_b"), ("output_1", "output_2")
    return any(a in row and b in row for a, b in (*names, *more))


def fits_texts(row: Row) -> bool:
    """A list of texts."""
    return isinstance(literal(row.get("text")), list)


def texts(row: Row, place: str) -> Row:
    """`{"text": [chosen, rejected], "score": [1, 0]}`: as it is."""
    return row
