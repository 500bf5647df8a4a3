"""A prompt: text, or the messages of a chat."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NotRequired, TypedDict, TypeGuard, cast

from trimtab.errors import ConfigError, DataError


class Message(TypedDict):
    """One turn of a chat, as OpenAI, TRL and transformers spell it.

    `tools` are those of the whole chat and stand on its first message, so that they go wherever the
    chat goes.
    """

    role: str
    content: str
    name: NotRequired[str]
    reasoning_content: NotRequired[str]
    tool_call_id: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]
    tools: NotRequired[list[dict[str, Any]]]


MESSAGE_KEYS = ("name", "reasoning_content", "tool_call_id", "tool_calls", "tools")
"""What a chat template may read of a message besides its role and content."""


Prompt = str | list[Message]


def is_ids(prompt: Any) -> TypeGuard[Sequence[int]]:
    """Whether a prompt or a response is token ids, at least one, in place of text or messages."""
    whole = not isinstance(prompt, str) and isinstance(prompt, Sequence) and len(prompt) > 0
    return whole and all(isinstance(i, int) for i in prompt)


def text_of(prompt: Prompt | Sequence[int]) -> Prompt:
    """A prompt that is text or messages.

    Raises:
        ConfigError: it is token ids.
    """
    if is_ids(prompt):
        raise ConfigError("the prompt is token ids where text is read", "give text or messages")
    return cast(Prompt, prompt)


def first_user_turn(prompt: Prompt) -> str:
    """The text that decides a prompt's split: its first user turn, or all of a plain prompt."""
    if isinstance(prompt, str):
        return prompt
    for message in prompt:
        if message["role"] == "user":
            return message["content"]
    return prompt[0]["content"] if prompt else ""


def prompt_hash(prompt: Prompt) -> int:
    """SHA-1 of the stripped first user turn, as an integer (the data contract's hash)."""
    return int(hashlib.sha1(first_user_turn(prompt).strip().encode()).hexdigest(), 16)


def require_characters(value: Any, place: str, column: str) -> None:
    """Refuse text with a lone surrogate, half of a character: no tokenizer and no file takes it.

    Raises:
        DataError: some text in the value, however deep, has one.
    """
    for text in _texts(value):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{place} has a `{column}` with half a character (a lone surrogate)",
                "mend or delete it",
            ) from None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        return
    parts: Iterable[Any] = value if isinstance(value, list | tuple) else ()
    if isinstance(value, dict):
        parts = (*value, *value.values())
    for part in parts:
        yield from _texts(part)
