"""Turns of chats as other tools spell them, as OpenAI, TRL and transformers do."""

from __future__ import annotations

from typing import Any

from trimtab.data.layouts.cells import literal
from trimtab.data.sources import Row

_SHAREGPT = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot", "chatgpt"), "assistant"),
    **dict.fromkeys(("observation", "tool", "function"), "tool"),
}


def _of_sharegpt(item: Row) -> Row:
    """ShareGPT's `from` and `value` as `role` and `content`; a function call is one."""
    speaker, said = str(item["from"]), item["value"]
    rest = {key: value for key, value in item.items() if key not in ("from", "value")}
    if speaker == "function_call":
        return {**rest, "role": "assistant", "content": None, "tool_calls": said}
    return {**rest, "role": _SHAREGPT.get(speaker.lower(), speaker), "content": said}


def _plain(content: Any) -> Any:
    """The text of OpenAI's content parts, where all of them are text; anything else as it is."""
    if not isinstance(content, list) or not content:
        return content
    texts = [
        part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None
        for part in content
    ]
    return "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else content


def as_openai(value: Any) -> Any:
    """A turn, or a list of them, with `role` and a text as `content`; anything else as it is.

    ShareGPT writes `from` and `value`; content may come in parts, as multimodal data have it.
    """
    found = literal(value)
    if isinstance(found, dict):
        return _turn(found) or value
    if not isinstance(found, list) or not found:
        return value
    turns = [_turn(item) if isinstance(item, dict) else None for item in found]
    return turns if all(turns) else value


def _turn(item: Row) -> Row | None:
    if "from" in item and "value" in item:
        return _of_sharegpt(item)
    if "role" in item and "content" in item:
        return {**item, "content": _plain(item["content"])}
    return None
