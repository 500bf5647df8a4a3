"""A prompt under an instruction."""

from __future__ import annotations

import logging
from typing import Any, cast
from weakref import WeakKeyDictionary

from trimtab.models.messages import Message, Prompt
from trimtab.models.protocols import Tokenizer
from trimtab.models.templates import TemplateError, apply_template
from trimtab.models.types import PromptFormat

logger = logging.getLogger(__name__)
_SAID: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()  # what was said of each tokenizer


def instructed(
    tokenizer: Tokenizer, prompt: Prompt, instruction: str, prompt_format: PromptFormat = "auto"
) -> Prompt:
    """The prompt with an instruction: as a system message, after one that is there already.

    Where there is no chat template it stands before the text, and where the template shows no
    system message, before the first user turn; either is said once.
    """
    if isinstance(prompt, str):
        if prompt_format == "raw" or (prompt_format == "auto" and not tokenizer.chat_template):
            _say(tokenizer, "a prompt without a chat template")
            return f"{instruction}\n\n{prompt}"
        prompt = [Message(role="user", content=prompt)]
    first, rest = cast(dict[str, Any], prompt[0]), prompt[1:]
    if first["role"] == "system":
        joined = {**first, "content": f"{first['content']}\n\n{instruction}"}
        return [cast(Message, joined), *rest]
    system: dict[str, Any] = {"role": "system", "content": instruction}
    if "tools" in first:  # they stand on a chat's first message
        system["tools"] = first["tools"]
        first = {k: v for k, v in first.items() if k != "tools"}
    chat = [cast(Message, system), cast(Message, first), *rest]
    if _shows(tokenizer, chat, instruction):
        return chat
    _say(tokenizer, "the first user turn, as the chat template shows no system message")
    before = [{**m, "content": f"{instruction}\n\n{m['content']}"} for m in prompt]
    at = next((i for i, m in enumerate(prompt) if m["role"] == "user"), 0)
    return [cast(Message, before[i]) if i == at else m for i, m in enumerate(prompt)]


def _shows(tokenizer: Tokenizer, chat: list[Message], instruction: str) -> bool:
    try:
        return instruction in apply_template(tokenizer, chat, add_generation_prompt=True)
    except TemplateError:
        return False


def _say(tokenizer: Tokenizer, where: str) -> None:
    said = _SAID.setdefault(tokenizer, set())
    if where not in said:
        said.add(where)
        logger.warning("instructions stand before %s (%s)", where, tokenizer.name_or_path)
