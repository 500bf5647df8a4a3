"""Chats in rows, however they are written: messages, their text, the tools they may call."""

from __future__ import annotations

import re
from typing import Any

from trimtab.data.literals import read_literal
from trimtab.data.sources import Row
from trimtab.errors import DataError
from trimtab.models.messages import MESSAGE_KEYS, Message, Prompt, require_characters

DIALOGUE_START = re.compile(r"\s*Human:")
_TURN = re.compile(
    r"(?:^|\n\n)(Human|Assistant):[ ]?(.*?)(?=\n\nHuman:|\n\nAssistant:|\Z)", re.DOTALL
)
_ROLES = {"Human": "user", "Assistant": "assistant"}
_OPENS = re.compile(r"""\s*(?:array\()?[\[({"]""")
_LIST_OF_DICTS = re.compile(r"\s*(?:array\()?\[\s*\{")
_SPEAKERS = {
    *("system", "developer", "user", "human", "assistant", "model", "gpt", "bot", "chatgpt"),
    *("tool", "function", "ipython", "observation"),
}
"""Who speaks in a chat: a list of others with a role and content is an answer in JSON."""


def text_of(value: Any, place: str, column: str) -> Any:
    """A text that spells a chat as that chat; any other value as it is.

    Tables hold chats as JSON or as the repr of a Python or numpy object. JSON that is no chat is an
    answer, and stays one.

    Raises:
        DataError: a text that looks like a chat and cannot be read as one.
    """
    if not isinstance(value, str) or not _OPENS.match(value):
        return value
    try:
        parsed = read_literal(value)
    except ValueError:
        if _LIST_OF_DICTS.match(value) and _has_keys(value):
            raise DataError(
                f"{place} has a `{column}` that begins like a chat and cannot be read as one",
                'write it as JSON: [{"role": "user", "content": "…"}, …]',
            ) from None
        return value
    if isinstance(parsed, str):  # JSON within JSON
        inner = text_of(parsed, place, column)
        return value if isinstance(inner, str) else inner
    items = list(parsed) if isinstance(parsed, list | tuple) else [parsed]
    if not any(map(_is_message, items)):
        return value
    return parsed if isinstance(parsed, dict) else items


def _has_keys(text: str) -> bool:
    return any(
        all(re.search(rf"""['"]{key}['"]\s*:""", text) for key in keys)
        for keys in (("role", "content"), ("from", "value"))
    )


def _is_message(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    speaker = item.get("role") if "content" in item or "tool_calls" in item else None
    if speaker is None and "value" in item:
        speaker = item.get("from")
    speakers = speaker if isinstance(speaker, list) else [speaker]  # `datasets` turns lists around
    return any(isinstance(s, str) and s.lower() in _SPEAKERS for s in speakers)


def prompt_of(row: Row, place: str) -> Prompt | None:
    """A row's `prompt`, checked: text or chat messages, with the row's `tools` where it has some.

    A row without one may have Alpaca's `instruction` in its place.

    Raises:
        DataError: it is neither, or cannot be written as UTF-8.
    """
    prompt = text_of(row.get("prompt"), place, "prompt")
    if prompt is None and row.get("instruction") is not None:
        prompt = alpaca_prompt(row)
    if prompt is None:
        return None
    prompt = prompt if isinstance(prompt, str) else messages_of(prompt, place, "prompt")
    require_characters(prompt, place, "prompt")
    return with_tools(prompt, tools_of(row, place))


def alpaca_prompt(row: Row) -> str:
    """`instruction`, and on the next line `input` where there is one."""
    cells = (row.get("instruction"), row.get("input"))
    parts = ["" if cell is None else str(cell) for cell in cells]
    return "\n".join(part for part in parts if part.strip())


def messages_of(value: Any, place: str, column: str) -> list[Message]:
    """Chat messages, checked, with what a chat template may read of them.

    Keys without a value go: Parquet and `datasets` give every message the keys of all.
    """
    if not isinstance(value, list) or not value:
        raise _no_messages(place, column)
    return [_message(item, place, column) for item in value]


def _message(item: Any, place: str, column: str) -> Message:
    if not isinstance(item, dict):
        raise _no_messages(place, column)
    kept = {key: _filled(item[key]) for key in MESSAGE_KEYS if item.get(key)}
    for key in ("tool_calls", "tools"):
        if key in kept:
            kept[key] = _objects(kept[key], place, key)
    for call in kept.get("tool_calls", []):
        _read_arguments(call)
    content = item.get("content")
    if content is None and "tool_calls" in kept:
        content = ""  # OpenAI writes null; a template would print "None"
    if not isinstance(item.get("role"), str) or not isinstance(content, str):
        raise _no_messages(place, column)
    message: Message = {"role": item["role"], "content": content, **kept}  # type: ignore[typeddict-item]
    return message


def _no_messages(place: str, column: str) -> DataError:
    return DataError(
        f"{place} has a `{column}` that is neither text nor chat messages",
        'messages are [{"role": "user", "content": "…"}, …]',
    )


def _read_arguments(call: Row) -> None:
    """OpenAI writes a call's arguments as JSON text; templates want them as an object."""
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return
    try:
        arguments = read_literal(function["arguments"])
    except ValueError:
        return
    if isinstance(arguments, dict):
        function["arguments"] = arguments


def system_of(row: Row, place: str) -> str:
    """A row's `system`, the text of a system turn; "" where it has none.

    Raises:
        DataError: it is no text.
    """
    system = row.get("system") or ""
    if not isinstance(system, str):
        raise DataError(f"{place} has a `system` that is no text", "give the system turn's text")
    return system if system.strip() else ""


def with_system(prompt: Prompt, system: str) -> Prompt:
    """A prompt after a system turn; a text becomes the user's. A chat's own system turn stays."""
    messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    if messages and messages[0]["role"] == "system":
        return messages
    return [Message(role="system", content=system), *messages]


def tools_of(row: Row, place: str) -> list[Row]:
    """A row's `tools`: JSON schemas of functions, perhaps as text; none where it has none."""
    return _objects(_filled(row["tools"]), place, "tools") if row.get("tools") else []


def _objects(value: Any, place: str, key: str) -> list[Row]:
    try:
        items = read_literal(value) if isinstance(value, str) else value
        items = [items] if isinstance(items, dict) else items or []
        objects = [_filled(read_literal(i) if isinstance(i, str) else i) for i in items]
    except (ValueError, TypeError):
        objects = [None]
    if not all(isinstance(item, dict) for item in objects):
        raise DataError(
            f"{place} has `{key}` that are no list of objects",
            'give [{"type": "function", "function": {…}}, …]',
        )
    require_characters(objects, place, key)
    return objects


def _filled(value: Any) -> Any:
    """A copy without the keys that have no value, at any depth."""
    if isinstance(value, dict):
        return {key: _filled(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_filled(item) for item in value]
    return value


def with_tools(prompt: Prompt, tools: list[Row]) -> Prompt:
    """A prompt that carries its tools, on its first message; a text becomes the user's."""
    if not tools:
        return prompt
    messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    return [{**messages[0], "tools": tools}, *messages[1:]]


def turns_of(text: str) -> list[Message]:
    """A dialogue written "\\n\\nHuman: … \\n\\nAssistant: …" as messages."""
    return [
        Message(role=_ROLES[who], content=said.strip())
        for who, said in _TURN.findall(text.lstrip())
    ]


def open_dialogue(prompt: str) -> list[Message]:
    """A dialogue prompt that ends with an empty assistant turn, as messages without that turn."""
    turns = turns_of(prompt)
    return turns[:-1] if turns and turns[-1] == {"role": "assistant", "content": ""} else turns
