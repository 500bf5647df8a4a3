"""A request's body as plans of the engine: its preference, its prompt, how tokens are chosen."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trimtab.data.chats import messages_of
from trimtab.engines.local import LocalEngine
from trimtab.engines.local.rows import RowPlan
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request
from trimtab.errors import ConfigError, MissingFileError
from trimtab.models.messages import Prompt
from trimtab.models.prompts import prompt_ids
from trimtab.models.templates import left_out
from trimtab.serving.config import FLAT, ServeConfig
from trimtab.serving.contract import Body, ChatBody, CompletionBody, Sampled
from trimtab.serving.turns import Turn

MOST_REPORTED = 2**18
"""Log-probs that one request may be told, those of alternatives included: some 100 MB of JSON."""
CHAT, TEXT = "chat.completion", "text_completion"


@dataclass(frozen=True)
class Served:
    """What a server serves.

    Attributes:
        engine: that answers.
        name: of the model, for requests.
        config: the server's options.
    """

    engine: LocalEngine
    name: str
    config: ServeConfig


@dataclass(frozen=True)
class Asked:
    """One HTTP request for text, ready for the engine.

    Attributes:
        kind: `CHAT` or `TEXT`.
        id: of the answer.
        created: seconds since 1970.
        model: as the request called it.
        plans: an answer each, those of a prompt in a row.
        logprobs: alternatives per token; None for no log-probs.
        stream: whether the answer is wanted piece by piece.
        include_usage: whether the stream ends with `usage`.
    """

    kind: str
    id: str
    created: int
    model: str
    plans: Sequence[RowPlan]
    logprobs: int | None
    stream: bool
    include_usage: bool

    @property
    def prompt_tokens(self) -> int:
        """Of the base, each prompt once."""
        prompts = {id(plan.request.prompt): plan.prompts["base"] for plan in self.plans}
        return sum(map(len, prompts.values()))


def chat_asked(body: ChatBody, served: Served) -> Asked:
    """A chat.

    Raises:
        TrimtabError: it cannot be answered.
    """
    return _asked(CHAT, "chatcmpl", body, [chat_prompt(body.messages, served)], served)


def completion_asked(body: CompletionBody, served: Served) -> Asked:
    """Text that is to go on.

    Raises:
        TrimtabError: it cannot be answered.
    """
    given: Any = body.prompt
    several = isinstance(given, list) and not isinstance(given[0], int)
    prompts = [_ids(prompt, served) for prompt in (given if several else [given])]
    return _asked(TEXT, "cmpl", body, prompts, served)


def chat_prompt(messages: Sequence[Turn], served: Served) -> Prompt:
    """OpenAI's messages; contents that are lists of text parts as one text.

    Raises:
        TrimtabError: they cannot be answered.
    """
    if messages[-1].role == "assistant":
        raise ConfigError(
            "the last message is the assistant's, and an answer that is begun is not supported",
            "end with another turn",
        )
    prompt = messages_of([_flat_turn(turn) for turn in messages], "the request", "messages")
    if lost := left_out(served.engine.base.tokenizer, prompt):
        raise ConfigError(
            f"the base's chat template does not show {', '.join(lost)}", "leave that out"
        )
    return prompt


def _flat_turn(turn: Turn) -> dict[str, Any]:
    flat = turn.model_dump()
    if turn.role == "developer":  # as OpenAI calls it now
        flat["role"] = "system"
    if isinstance(turn.content, list):
        flat["content"] = "".join(part.text for part in turn.content)
    return flat


def _ids(prompt: str | Sequence[int], served: Served) -> Sequence[int]:
    """A prompt as it stands, in the base's ids."""
    if not isinstance(prompt, str):
        return prompt
    ids = prompt_ids(served.engine.base.tokenizer, prompt, "raw") if prompt else []
    if not ids:
        raise ConfigError("the prompt is empty", "give at least one character")
    return ids


def _asked(
    kind: str,
    prefix: str,
    body: ChatBody | CompletionBody,
    prompts: Sequence[Prompt | Sequence[int]],
    served: Served,
) -> Asked:
    engine, how, sampling = served.engine, steered(body, served), _sampling(body)
    require_few(len(prompts) * (body.n or 1), served)
    asked = [
        _limited(
            Request(
                prompt,
                n=body.n or 1,
                sampling=sampling,
                report=body.wanted_logprobs is not None,
                alternatives=body.wanted_logprobs or 0,
                **how,
            ),
            body.limit,
            served,
        )
        for prompt in prompts
    ]
    if body.wanted_logprobs is not None:
        _require_tellable(asked, 1 + body.wanted_logprobs)
    return Asked(
        kind,
        f"{prefix}-{uuid.uuid4().hex}",
        int(time.time()),
        body.model,
        [plan for request in asked for plan in engine.plans(request)],
        body.wanted_logprobs,
        bool(body.stream),
        bool(body.stream_options and body.stream_options.include_usage),
    )


def require_few(answers: int, served: Served) -> None:
    """Refuse a request for which there would never be room.

    Raises:
        ConfigError: it asks for more answers than may wait.
    """
    most = served.config.max_waiting
    if answers > most:
        hint = f"{most} may wait here: ask for fewer at once"
        raise ConfigError(f"the request asks for {answers} answers", hint)


def _require_tellable(asked: Sequence[Request], each: int) -> None:
    """Refuse to gather more log-probs than a server should hold for one request."""
    count = each * sum(request.n * request.sampling.max_new_tokens for request in asked)
    if count > MOST_REPORTED:
        raise ConfigError(
            f"the request may come to {count:,} log-probs, and {MOST_REPORTED:,} is the most",
            "lower max_tokens, n or top_logprobs",
        )


def _limited(request: Request, limit: int | None, served: Served) -> Request:
    """With so many tokens at most; by default as many as the server gives, if there is room."""
    if limit is None:
        limit = min(served.config.default_max_tokens, served.engine.room(request))
    return replace(request, sampling=request.sampling.but(max_new_tokens=limit))


def _sampling(body: Sampled) -> Sampling:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return Sampling.given(
        temperature=body.temperature,
        top_k=None if body.top_k is None else max(body.top_k, 0),
        top_p=body.top_p,
        min_p=body.min_p,
        stop=tuple(stop),
        logit_bias=_biases(body),
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        response_format=body.response_format,
    ).but(seed=body.seed)


_TOKEN_ID = re.compile("0|[1-9][0-9]{0,9}")


def _biases(body: Sampled) -> dict[int, float]:
    biases = body.logit_bias or {}
    for token in biases:
        if not _TOKEN_ID.fullmatch(token):
            raise ConfigError(f"logit_bias has the key {token!r}", "name token ids, such as 5")
    return {int(token): bias for token, bias in biases.items()}


def steered(body: Body, served: Served) -> dict[str, Any]:
    """How a request is steered: by its fields, by `vllm_xargs`, by its model's name, or else as the
    server does.

    Raises:
        MissingFileError: there is no such model.
        ConfigError: a setting stands in two places, or is unknown.
    """
    name, at, named = body.model.partition("@")
    if name != served.name:
        raise MissingFileError(f"there is no model {name!r}", f"this server has {served.name!r}")
    places: list[tuple[str, Mapping[str, Any]]] = [
        ("the request", {key: getattr(body, key, None) for key in FLAT}),
        ("vllm_xargs", _flat(body)),
        ("the model's name", {"preference": named} if at else {}),
    ]
    found: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for place, settings in places:
        for key, value in settings.items():
            if value is None:
                continue
            if key in found:
                raise ConfigError(f"{key} stands in {origin[key]} and in {place}", "give it once")
            found[key], origin[key] = value, place
    return {**served.config.defaults, **found, "instructions": body.instruct}


def _flat(body: Body) -> Mapping[str, Any]:
    xargs = body.vllm_xargs or {}
    unknown = next((key for key in xargs if key not in body.flat), None)
    if unknown is not None:
        raise ConfigError(f"vllm_xargs has {unknown!r}", f"there are: {', '.join(body.flat)}")
    return xargs
