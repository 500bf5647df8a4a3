"""The prompt and the two sides of a row, whether texts, dialogues or chat messages."""

from __future__ import annotations

from trimtab.data.chats import (
    DIALOGUE_START,
    messages_of,
    open_dialogue,
    prompt_of,
    turns_of,
)
from trimtab.data.pairs import Unusable
from trimtab.data.sources import Row
from trimtab.models.messages import Message, Prompt


def sides_of(row: Row, place: str) -> tuple[Prompt, str, str, bool]:
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
