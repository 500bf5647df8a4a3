"""Chat templates: what they write for a chat, how a turn ends in them, what they leave out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

from trimtab.errors import ConfigError, DataError
from trimtab.models.messages import Message, Prompt
from trimtab.models.protocols import Tokenizer

_MARK = "trimtab0mark"  # an answer that no template writes by itself
_PROBE = [Message(role="user", content="Hello")]
_MARKERS: WeakKeyDictionary[Any, tuple[int, re.Pattern[str] | None]] = WeakKeyDictionary()


class TemplateError(DataError):
    """A chat that the tokenizer's template does not take, such as one with two user turns."""


def apply_template(tokenizer: Tokenizer, messages: Sequence[Message], **options: Any) -> str:
    """The text of a chat; the tools on its first message are given to the template.

    Raises:
        TemplateError: the template refuses the chat, or fails on it.
    """
    import jinja2

    tools = messages[0].get("tools") if messages else None
    if tools:
        first = cast(Message, {k: v for k, v in messages[0].items() if k != "tools"})
        messages, options["tools"] = [first, *messages[1:]], tools
    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise TemplateError(
            f"the chat template does not take this chat ({error})", "mend the chat or the template"
        ) from None
    return text


def require_template(tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer without a chat template."""
    if not tokenizer.chat_template:
        raise ConfigError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template for these chats",
            "put chat_template.jinja into its folder (training takes --chat-template FILE.jinja), "
            "or give plain-text prompts with --prompt-format raw",
        )


def load_chat_template(tokenizer: Tokenizer, path: str | None) -> None:
    """Give a tokenizer the chat template in a Jinja file; None leaves it as it is."""
    if path is None:
        return
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"no chat template at {path}", "name a Jinja file")
    try:
        tokenizer.chat_template = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", "name a Jinja file") from None


def turn_end(tokenizer: Tokenizer, messages: Sequence[Message] = _PROBE) -> tuple[str, str]:
    """What the template writes after an answer to this chat, and that of it which ends the turn.

    It is found by rendering. The turn ends with what is there whether or not another turn follows,
    up to the last of the first special tokens in it: what follows them (a line end, the end of the
    text) is not the model's to write. Where nothing is there, the end of the text ends the turn,
    too.

    Returns:
        The whole tail, and the end of the turn: "" where the template writes none.
    """
    answered = [*messages, Message(role="assistant", content=_MARK)]
    tail = apply_template(tokenizer, answered).rpartition(_MARK)[2]
    try:
        more = apply_template(tokenizer, [*answered, Message(role="user", content=_MARK + "2")])
    except TemplateError:
        more = _MARK + tail
    between = more.partition(_MARK)[2].partition(_MARK)[0]
    special = _special_tokens(tokenizer)
    parts = [special.split(text) if special else [text] for text in (tail, between)]
    shared = _common_beginning(*parts)
    ending = shared if "".join(shared).strip() else parts[0]
    return tail, _to_first_special(ending).rstrip()


def turn_end_id(tokenizer: Tokenizer) -> int | None:
    """The token that ends a turn in the tokenizer's chat template, where it is one."""
    if not tokenizer.chat_template:
        return None
    try:
        _, end = turn_end(tokenizer)
    except TemplateError:
        return None
    special = _special_tokens(tokenizer)
    endings = special.findall(end) if special else []
    if not endings or not end.endswith(endings[-1]):
        return None
    return int(tokenizer.convert_tokens_to_ids(endings[-1]))


def _special_tokens(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """A pattern of the tokens that no text spells by accident; line ends are none of them."""
    size, pattern = _MARKERS.get(tokenizer, (-1, None))
    if size != len(tokenizer):
        added = [token.content for token in tokenizer.added_tokens_decoder.values()]
        tokens = [token for token in {*added, *tokenizer.all_special_tokens} if token.strip()]
        longest_first = map(re.escape, sorted(tokens, key=len, reverse=True))
        pattern = re.compile(f"({'|'.join(longest_first)})") if tokens else None
        _MARKERS[tokenizer] = len(tokenizer), pattern
    return pattern


def _common_beginning(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """The shared beginning of two texts that were split at special tokens, which stay whole."""
    shared: list[str] = []
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a == b:
            shared.append(a)
            continue
        if i % 2 == 0:  # text between tokens
            length = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
            shared.append(a[: min(len(a), len(b)) if length is None else length])
        break
    return shared


def _to_first_special(parts: Sequence[str]) -> str:
    """Text that was split at special tokens, up to and with the first run of them."""
    last = 1
    while last + 2 < len(parts) and not parts[last + 1]:
        last += 2
    return "".join(parts[: last + 1])


def left_out(tokenizer: Tokenizer, prompt: Prompt) -> list[str]:
    """What a chat has and the tokenizer's template does not show: it is the same text without.

    Of interest are tools, calls of them, and turns of others than user and assistant.
    """
    if isinstance(prompt, str):
        return []
    changes: dict[str, Callable[[Message], dict[str, Any]]] = {}
    for key in ("tools", "tool_calls"):
        if any(key in message for message in prompt):
            changes[f"`{key}`"] = lambda m, key=key: {k: v for k, v in m.items() if k != key}  # type: ignore[misc]
    for role in dict.fromkeys(m["role"] for m in prompt if m["role"] not in ("user", "assistant")):
        changes[f"`{role}` turns"] = lambda m, role=role: (  # type: ignore[misc]
            {**m, "content": m["content"] + _MARK} if m["role"] == role else {**m}
        )
    return [what for what, change in changes.items() if _is_same(tokenizer, prompt, change)]


def _is_same(
    tokenizer: Tokenizer, chat: Sequence[Message], change: Callable[[Message], dict[str, Any]]
) -> bool:
    """Whether a chat is the same text when its messages are changed."""
    changed = [cast(Message, change(message)) for message in chat]
    try:
        one, other = (
            apply_template(tokenizer, messages, add_generation_prompt=True)
            for messages in (chat, changed)
        )
    except TemplateError:
        return False
    return one == other
