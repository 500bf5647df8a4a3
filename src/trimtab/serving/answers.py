"""Events of the engine as OpenAI's objects: whole, or piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trimtab.engines.types import Completion, Event, TokenReport
from trimtab.errors import AnswerError, ClosedError, ConfigError
from trimtab.serving.asking import CHAT, Asked
from trimtab.serving.logprobs import chat_logprobs, text_logprobs
from trimtab.version import __version__

FINGERPRINT = f"trimtab-{__version__}"


def whole(asked: Asked, answers: Sequence[Completion]) -> dict[str, Any]:
    """The object of all answers.

    Raises:
        AnswerError: one went wrong.
    """
    choices = [_choice(asked, number, answer) for number, answer in enumerate(answers)]
    return {**_head(asked, asked.kind), "choices": choices, "usage": usage(asked, answers)}


def usage(asked: Asked, answers: Sequence[Completion]) -> dict[str, int]:
    """Tokens read and written."""
    prompt, written = asked.prompt_tokens, sum(len(answer.token_ids) for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
    }


def require_right(answer: Completion) -> None:
    """Refuse an answer that is none.

    Raises:
        ConfigError, AnswerError, ClosedError: by whose fault it is.
    """
    if answer.finish_reason == "error":
        raise ConfigError(answer.error) if answer.refused else AnswerError(answer.error)
    if answer.finish_reason == "cancelled":
        raise ClosedError("the server is going down", "ask again")


def told(answer: Completion) -> dict[str, Any]:
    """How an answer came about: the extra field of its choice."""
    return {
        "preference": dict(answer.preference),
        "strength": answer.strength,
        "kl_per_token": answer.kl,
        "seed": answer.seed,
        "gated": answer.gated,
        "drafted": answer.drafted,
        "accepted": answer.accepted,
    }


def _choice(asked: Asked, number: int, answer: Completion) -> dict[str, Any]:
    require_right(answer)
    said: dict[str, Any] = {"text": answer.text}
    if asked.kind == CHAT:
        said = {"message": {"role": "assistant", "content": answer.text, "refusal": None}}
    return {
        "index": number,
        **said,
        "logprobs": _logprobs(asked, answer.tokens, 0),
        "finish_reason": answer.finish_reason,
        "trimtab": told(answer),
    }


def _logprobs(asked: Asked, reports: Sequence[TokenReport], start: int) -> dict[str, Any] | None:
    if asked.logprobs is None:
        return None
    return chat_logprobs(reports) if asked.kind == CHAT else text_logprobs(reports, start)


def _head(asked: Asked, kind: str) -> dict[str, Any]:
    return {
        "id": asked.id,
        "object": kind,
        "created": asked.created,
        "model": asked.model,
        "system_fingerprint": FINGERPRINT,
    }


class Pieces:
    """The pieces of a stream.

    Args:
        asked: whose answers they are of.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        kind = "chat.completion.chunk" if asked.kind == CHAT else asked.kind
        self._head = _head(asked, kind)
        if asked.include_usage:
            self._head["usage"] = None
        self._said = [0] * len(asked.plans)
        self._begun: set[int] = set()

    def of(self, event: Event) -> list[dict[str, Any]]:
        """What an event is sent as.

        Raises:
            AnswerError: its answer went wrong.
        """
        found = []
        if self._asked.kind == CHAT and event.index not in self._begun:
            self._begun.add(event.index)
            found.append(self._piece(event.index, {"role": "assistant", "content": ""}, None))
        reports = _logprobs(self._asked, event.tokens, self._said[event.index])
        self._said[event.index] += sum(len(token.text) for token in event.tokens)
        if event.text or (reports and event.tokens):
            found.append(self._piece(event.index, {"content": event.text}, reports))
        if event.completion:
            require_right(event.completion)
            last = self._piece(event.index, {}, None)
            choice = last["choices"][0]
            choice["finish_reason"] = event.completion.finish_reason
            choice["trimtab"] = told(event.completion)
            found.append(last)
        return found

    def last(self, answers: Sequence[Completion]) -> list[dict[str, Any]]:
        """What comes when all answers are whole."""
        if not self._asked.include_usage:
            return []
        return [{**self._head, "choices": [], "usage": usage(self._asked, answers)}]

    def _piece(
        self, number: int, delta: dict[str, str], logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        said: dict[str, Any] = {"text": delta.get("content", "")}
        if self._asked.kind == CHAT:
            said = {"delta": delta}
        choice = {"index": number, **said, "logprobs": logprobs, "finish_reason": None}
        return {**self._head, "choices": [choice]}
