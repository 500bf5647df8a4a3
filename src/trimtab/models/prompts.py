"""Token ids of prompts and responses. A prompt is tokenised alone, as it will be when decoding."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from trimtab.errors import ConfigError
from trimtab.models.messages import Message, Prompt, require_characters
from trimtab.models.protocols import Tokenizer
from trimtab.models.templates import (
    apply_template,
    left_out,
    require_template,
    turn_end,
)
from trimtab.models.types import PromptFormat

logger = logging.getLogger(__name__)
_SAID: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()  # what was said of each tokenizer


def render_prompt(
    tokenizer: Tokenizer, prompt: Prompt, prompt_format: PromptFormat = "auto"
) -> tuple[str, list[Message] | None]:
    """The text a prompt stands for, and its messages where it is a chat.

    A plain text is one user turn when the tokenizer has a chat template (`auto`, `chat`) and stands
    as it is otherwise (`raw`). Messages always need the template.

    Raises:
        ConfigError: messages, or `chat`, and a tokenizer without a chat template.
        DataError: the prompt holds half a character, which no tokenizer takes.
    """
    require_characters(prompt, "the request", "prompt")
    messages = prompt
    if isinstance(messages, str):
        if prompt_format == "raw" or (prompt_format == "auto" and not tokenizer.chat_template):
            return messages, None
        messages = [Message(role="user", content=messages)]
    require_template(tokenizer)
    return apply_template(tokenizer, messages, add_generation_prompt=True), messages


def prompt_ids(
    tokenizer: Tokenizer, prompt: Prompt, prompt_format: PromptFormat = "auto"
) -> list[int]:
    """Token ids of a prompt, ready to be continued: one BOS if the model has one, never an EOS."""
    text, messages = render_prompt(tokenizer, prompt, prompt_format)
    _say_what_is_left_out(tokenizer, messages)
    return _encode_prompt(tokenizer, text, is_chat=messages is not None)


def ids_under_instruction(tokenizer: Tokenizer, ids: Sequence[int], instruction: str) -> list[int]:
    """Ids of raw text with an instruction and an empty line before it, behind its BOS if any."""
    before = _encode_prompt(tokenizer, f"{instruction}\n\n", is_chat=False)
    first = tokenizer.bos_token_id
    has_bos = first is not None and before[:1] == [first] and list(ids[:1]) == [first]
    return [*before, *(ids[1:] if has_bos else ids)]


def require_embedded(ids: Sequence[int], rows: int, tokenizer: Tokenizer) -> None:
    """Refuse tokens that a model has no embedding for: it was not resized when they were added.

    Raises:
        ConfigError: it names the first one.
    """
    beyond = next((i for i in ids if i >= rows), None)
    if beyond is not None:
        raise ConfigError(
            f"the model of {tokenizer.name_or_path} has {rows} embeddings, none for token "
            f"{beyond}, {tokenizer.convert_ids_to_tokens(beyond)!r}",
            "leave it out of the text, or resize and train the model for it",
        )


def _say_what_is_left_out(tokenizer: Tokenizer, messages: list[Message] | None) -> None:
    said = _SAID.setdefault(tokenizer, set())
    for part in set(left_out(tokenizer, messages or "")) - said:
        said.add(part)
        name = tokenizer.name_or_path
        logger.warning(
            "the chat template of %s does not show %s: the model never sees them", name, part
        )


def _encode_prompt(tokenizer: Tokenizer, text: str, *, is_chat: bool) -> list[int]:
    ids = list(
        tokenizer(text, add_special_tokens=not is_chat)["input_ids"]
    )  # a template has its BOS
    while not is_chat and ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


def response_ids(
    tokenizer: Tokenizer,
    prompt: Prompt,
    response: str,
    prompt_format: PromptFormat = "auto",
) -> tuple[list[int], list[int]]:
    """Prompt ids and response ids, the response ending with its turn and nothing after it.

    The prompt's ids are a strict prefix: where the tokenizer would merge across the boundary, the
    response is tokenised on its own, because when decoding it starts after the finished prompt.
    """
    started = StartedPrompt.of(tokenizer, prompt, prompt_format)
    _say_what_is_left_out(tokenizer, started.messages)
    return started.ids, started.response_ids(tokenizer, response)


def conversation_ids(
    tokenizer: Tokenizer, prompt: Prompt, response: str, prompt_format: PromptFormat = "auto"
) -> tuple[list[int], bool]:
    """Ids of a prompt and its response as one text, and whether that is a chat.

    A chat is all that the template writes, as sequence classifiers are trained on it; a raw text
    ends with the end-of-turn token.
    """
    text, messages = render_prompt(tokenizer, prompt, prompt_format)
    _say_what_is_left_out(tokenizer, messages)
    require_characters(response, "the request", "response")
    if messages is not None:
        turn = Message(role="assistant", content=response)
        full = apply_template(tokenizer, [*messages, turn])
        return list(tokenizer(full, add_special_tokens=False)["input_ids"]), True
    ids = list(tokenizer(text + response)["input_ids"])
    end = tokenizer.eos_token_id
    return (ids if end is None or ids[-1:] == [end] else [*ids, end]), False


@dataclass(frozen=True)
class StartedPrompt:
    """A prompt that is ready for its responses.

    Attributes:
        text: the rendered prompt.
        messages: of a chat; None for raw text.
        ids: its tokens.
        tail: what the template writes after an answer.
        end: that of it with which the turn ends; "" where nothing does.
    """

    text: str
    messages: list[Message] | None
    ids: list[int]
    tail: str
    end: str

    @classmethod
    def of(cls, tokenizer: Tokenizer, prompt: Prompt, prompt_format: PromptFormat) -> StartedPrompt:
        """Render and tokenise a prompt."""
        text, messages = render_prompt(tokenizer, prompt, prompt_format)
        ids = _encode_prompt(tokenizer, text, is_chat=messages is not None)
        return cls(text, messages, ids, *(turn_end(tokenizer, messages) if messages else ("", "")))

    def response_ids(self, tokenizer: Tokenizer, response: str) -> list[int]:
        """Ids of a response; the token that ends its turn is the last one."""
        require_characters(response, "the request", "response")
        response = self._bare(response, tokenizer.eos_token)
        ending = response if self.messages is None else self._templated(tokenizer, response)
        raw = self.messages is None
        joined = list(tokenizer(self.text + ending, add_special_tokens=raw)["input_ids"])
        if joined[: len(self.ids)] == self.ids:
            after = joined[len(self.ids) :]
        else:
            after = list(tokenizer(ending, add_special_tokens=False)["input_ids"])
        end = tokenizer.eos_token_id
        if self.end or end is None:
            return after
        while after and after[-1] == end:  # some tokenizers write one themselves
            after.pop()
        return [*after, end]

    def beginning(self, tokenizer: Tokenizer, response: str) -> list[int]:
        """Ids of the prompt and of a response so far: nothing ends there."""
        require_characters(response, "the request", "response")
        raw = self.messages is None
        joined = list(tokenizer(self.text + response, add_special_tokens=raw)["input_ids"])
        if joined[: len(self.ids)] != self.ids:
            joined = [*self.ids, *tokenizer(response, add_special_tokens=False)["input_ids"]]
        while raw and len(joined) > len(self.ids) and joined[-1] == tokenizer.eos_token_id:
            joined.pop()  # some tokenizers write one themselves
        return joined

    def _bare(self, response: str, eos: str | None) -> str:
        """A response without the ends of its turn that it carries as text: one is added."""
        ends = [end for end in (self.end, eos) if end]
        bare = response.rstrip()
        while ending := [end for end in ends if bare.endswith(end)]:
            response = bare.removesuffix(ending[0])
            bare = response.rstrip()
        return response

    def _templated(self, tokenizer: Tokenizer, response: str) -> str:
        """What the template writes after the prompt for this response, to the end of its turn."""
        turn = Message(role="assistant", content=response)
        full = apply_template(tokenizer, [*(self.messages or []), turn])
        if not full.startswith(self.text):  # a template that rewrites an answered prompt
            return response + self.end
        written = full[len(self.text) :]
        if written.endswith(self.tail):
            return written[: len(written) - len(self.tail)] + self.end
        before, tail, _ = written.rpartition(self.end or written)  # a tail that depends on it
        return before + (tail or written + self.end)
