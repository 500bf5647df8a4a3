"""Token ids of prompts and pairs. A prompt is tokenised alone, as it will be when decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trimtab.data.pairs import Comparison, Message, Pair, Prompt, RowReport
from trimtab.errors import ConfigError, DataError

PromptFormat = Literal["auto", "chat", "raw"]
Tokenizer = Any  # transformers.PreTrainedTokenizerBase; typed loosely to keep this import light


@dataclass(frozen=True)
class TokenPair:
    """Token ids of one pair. Each response ends with the end-of-turn token.

    Attributes:
        prompt_ids: of the prompt.
        chosen_ids: of the better response; of the first one where there are verdicts.
        rejected_ids: of the other.
        verdicts: objective -> index of the better response, for a pair judged on several.
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    verdicts: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


def render_prompt(
    tokenizer: Tokenizer, prompt: Prompt, prompt_format: PromptFormat = "auto"
) -> tuple[str, list[Message] | None]:
    """The text a prompt stands for, and its messages where it is a chat.

    A plain text is one user turn when the tokenizer has a chat template (`auto`, `chat`) and stands
    as it is otherwise (`raw`). Messages always need the template.

    Raises:
        ConfigError: messages, or `chat`, and a tokenizer without a chat template.
    """
    messages = prompt
    if isinstance(messages, str):
        if prompt_format == "raw" or (prompt_format == "auto" and not tokenizer.chat_template):
            return messages, None
        messages = [Message(role="user", content=messages)]
    require_template(tokenizer)
    return _apply_template(tokenizer, messages, add_generation_prompt=True), messages


class TemplateError(DataError):
    """A chat that the tokenizer's template does not take, such as one with two user turns."""


def _apply_template(tokenizer: Tokenizer, messages: list[Message], **options: Any) -> str:
    import jinja2

    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except jinja2.TemplateError as error:
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


def prompt_ids(
    tokenizer: Tokenizer, prompt: Prompt, prompt_format: PromptFormat = "auto"
) -> list[int]:
    """Token ids of a prompt, ready to be continued: one BOS if the model has one, never an EOS."""
    text, messages = render_prompt(tokenizer, prompt, prompt_format)
    return _encode_prompt(tokenizer, text, is_chat=messages is not None)


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
    """Prompt ids and response ids, the response ending with the end-of-turn token.

    The prompt's ids are a strict prefix: where the tokenizer would merge across the boundary, the
    response is tokenised on its own, because when decoding it starts after the finished prompt.
    """
    text, messages = render_prompt(tokenizer, prompt, prompt_format)
    before = _encode_prompt(tokenizer, text, is_chat=messages is not None)
    response = _without_end(tokenizer, response)
    ending = response if messages is None else _templated(tokenizer, messages, response, text)
    joined = list(tokenizer(text + ending, add_special_tokens=messages is None)["input_ids"])
    if joined[: len(before)] == before:
        after = joined[len(before) :]
    else:
        after = list(tokenizer(ending, add_special_tokens=False)["input_ids"])
    return before, _ended(tokenizer, after)


def _without_end(tokenizer: Tokenizer, response: str) -> str:
    """A response that carries its end-of-turn token as text, without it: it is added once."""
    end = tokenizer.eos_token
    bare = response.rstrip()
    return bare.removesuffix(end) if end and bare.endswith(end) else response


def _templated(
    tokenizer: Tokenizer, messages: list[Message], response: str, prompt_text: str
) -> str:
    """What the template writes after the prompt for this response."""
    turn = Message(role="assistant", content=response)
    full = _apply_template(tokenizer, [*messages, turn])
    if full.startswith(prompt_text):
        return full[len(prompt_text) :]
    return response  # a template that rewrites the prompt once it is answered


def _ended(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Response ids up to and with one end-of-turn token; what a template writes after it goes."""
    end = tokenizer.eos_token_id
    if end is None:
        return ids
    if end in ids:
        last = len(ids) - 1 - ids[::-1].index(end)
        if not tokenizer.decode(ids[last + 1 :], skip_special_tokens=True).strip():
            return ids[: last + 1]
    return [*ids, end]


def tokenize_pair(
    tokenizer: Tokenizer, pair: Pair, prompt_format: PromptFormat = "auto"
) -> TokenPair:
    """Token ids of a pair."""
    style: PromptFormat = "raw" if pair.verbatim else prompt_format
    before, chosen = response_ids(tokenizer, pair.prompt, pair.chosen, style)
    _, rejected = response_ids(tokenizer, pair.prompt, pair.rejected, style)
    verdicts = pair.verdicts if isinstance(pair, Comparison) else {}
    return TokenPair(before, chosen, rejected, verdicts)


def tokenize_pairs(
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    *,
    max_length: int,
    prompt_format: PromptFormat = "auto",
    report: RowReport,
    progress: Callable[[int], None] | None = None,
) -> list[TokenPair]:
    """Tokenise pairs; those longer than `max_length` tokens are left out and counted, never cut.

    Args:
        tokenizer: a transformers tokenizer.
        pairs: what to tokenise.
        max_length: tokens of prompt and longer response together.
        prompt_format: how plain-text prompts are read.
        report: where unusable pairs are counted.
        progress: told now and then how many pairs are done.

    Raises:
        DataError: no pair is left.
    """
    tokens: list[TokenPair] = []
    too_long: list[int] = []
    for number, pair in enumerate(pairs, 1):
        if progress and (number % 500 == 0 or number == len(pairs)):
            progress(number)
        try:
            item = tokenize_pair(tokenizer, pair, prompt_format)
        except TemplateError as error:
            report.leave_out(error.args[0], pair.source)
            continue
        if item.chosen_ids == item.rejected_ids:
            report.leave_out("both sides are the same tokens", pair.source)
        elif not item.prompt_ids:
            report.leave_out("the prompt has no tokens", pair.source)
        elif len(item) > max_length:
            report.leave_out(f"longer than {max_length} tokens", pair.source)
            too_long.append(len(item))
        else:
            tokens.append(item)
    if pairs and not tokens and too_long:
        raise DataError(
            f"none of {len(pairs)} pairs fits in --max-length {max_length} "
            f"(the shortest has {min(too_long)} tokens)",
            "raise --max-length",
        )
    if pairs and not tokens:
        raise DataError(f"none of {len(pairs)} pairs can be used", "; ".join(report.lines()))
    return tokens


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
