"""What may be asked over HTTP: OpenAI's fields, and what steers; all else is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from trimtab.engines.types import Speculate
from trimtab.errors import ConfigError
from trimtab.models.messages import require_characters
from trimtab.serving.config import FLAT
from trimtab.serving.turns import Turn

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "metadata": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "prompt_cache_key": (),
    "prompt_cache_retention": (),
    "reasoning_effort": (),
    "safety_identifier": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
"""OpenAI's fields that are not supported -> the values that ask for nothing, which are let pass, as
null is."""
MOST_STOPS, LONGEST_STOP = 16, 1000
_NUMBER = {"anyOf": [{"type": "number"}, {"type": "null"}]}
_WEIGHTS = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}
Number = Annotated[Any, WithJsonSchema(_NUMBER)]
"""Checked where the command line's is, so that both say the same."""
Preference = Annotated[
    Any, WithJsonSchema({"anyOf": [_WEIGHTS, {"type": "string"}, {"type": "null"}]})
]
_INSTRUCTION = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "weight": {"type": "number"}},
    "additionalProperties": False,
}
Instructions = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "additionalProperties": {"anyOf": [{"type": "string"}, _INSTRUCTION]},
                },
                {"type": "null"},
            ]
        }
    ),
]
_SCALAR = {"anyOf": [{"type": "string"}, {"type": "number"}]}


def _flat(*names: str) -> WithJsonSchema:
    """The schema of `vllm_xargs` that may hold these."""
    held = {"properties": dict.fromkeys(names, _SCALAR), "additionalProperties": False}
    return WithJsonSchema({"anyOf": [{"type": "object", **held}, {"type": "null"}]})


class Body(BaseModel):
    """What every request has."""

    model_config = ConfigDict(strict=True, extra="forbid")
    flat: ClassVar[tuple[str, ...]] = ("preference",)
    """What `vllm_xargs` may hold."""

    model: str = Field(description="As /v1/models has it, or NAME@helpful=0.7,harmless=0.3")
    preference: Preference = Field(None, description="Weight per objective, not negative")
    instruct: Instructions = Field(
        None, description="Other texts, or weights, for instructions that the server has, by name"
    )
    vllm_xargs: Annotated[dict[str, Any] | None, _flat("preference")] = Field(
        None, description="preference, flat"
    )

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, body: Any) -> Any:
        """Let the unsupported pass where it asks for nothing; refuse it by name elsewhere."""
        if not isinstance(body, dict):
            return body
        require_characters(body, "the request", "body")
        kept = dict(body)
        for name in [name for name in body if name in UNSUPPORTED and name not in cls.model_fields]:
            value = kept.pop(name)
            nothing = ((type(v), v) for v in (None, *UNSUPPORTED[name]))  # True is 1, to Python
            if (type(value), value) not in nothing:
                raise ConfigError(f"{name} is not supported", "/v1/models lists what is not")
        return kept


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool = Field(False, description="End with a piece that has `usage`")


class Sampled(Body):
    """What requests for text have in common."""

    flat: ClassVar[tuple[str, ...]] = FLAT
    vllm_xargs: Annotated[dict[str, Any] | None, _flat(*FLAT)] = Field(
        None, description="preference, strength, kl_budget, gate and speculate, flat"
    )
    strength: Number = Field(None, description="How hard the guide pulls; 0 is the base exactly")
    kl_budget: Number = Field(None, description="Nats per token from the base, at most")
    gate: Number = Field(None, description="Base probability above which ARMs are left out")
    speculate: Speculate | None = Field(None, description="Draft tokens; they stay the same")
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1, description="0 or -1 keeps all")
    min_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=128)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=1024)] | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    response_format: dict[str, Any] | None = Field(
        None, description='{"type": "json_schema", "json_schema": {"schema": {...}}} or json_object'
    )
    user: str | None = Field(None, description="Taken, and not used")

    @model_validator(mode="after")
    def _together(self) -> Sampled:
        if self.stream_options is not None and not self.stream:
            raise ConfigError("stream_options without stream", "add stream: true")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if "" in stops:
            raise ConfigError("a stop text is empty", "leave it out")
        if any(len(stop) > LONGEST_STOP for stop in stops):
            raise ConfigError(
                f"a stop text is longer than {LONGEST_STOP} characters", "give shorter ones"
            )
        return self


class ChatBody(Sampled):
    """`/v1/chat/completions`."""

    messages: list[Turn] = Field(
        min_length=1,
        fail_fast=True,
        description="Earlier answers may come back as they were sent; keys besides these are "
        "refused unless they are empty",
    )
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _chat(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ConfigError("top_logprobs without logprobs", "add logprobs: true")
        both = self.max_tokens, self.max_completion_tokens
        if None not in both and both[0] != both[1]:
            raise ConfigError("max_tokens and max_completion_tokens differ", "give one of them")
        return self

    @property
    def wanted_logprobs(self) -> int | None:
        """Alternatives per token; None for no log-probs."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def limit(self) -> int | None:
        """Tokens of an answer."""
        return self.max_completion_tokens or self.max_tokens


Ids = Annotated[list[int], Field(min_length=1, fail_fast=True)]


class CompletionBody(Sampled):
    """`/v1/completions`."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=128, fail_fast=True)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=128, fail_fast=True)]
    ) = Field(description="Text as it stands, without a template, or token ids of the base")
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def wanted_logprobs(self) -> int | None:
        """Alternatives per token; None for no log-probs."""
        return self.logprobs

    @property
    def limit(self) -> int | None:
        """Tokens of an answer."""
        return self.max_tokens


class Given(BaseModel):
    """A prompt, and what was answered."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: str | None = Field(None, description="Text, in the base's template")
    messages: Annotated[list[Turn], Field(min_length=1, fail_fast=True)] | None = None
    response: str

    @model_validator(mode="after")
    def _one(self) -> Given:
        if (self.prompt is None) == (self.messages is None):
            raise ConfigError("an input has to have `prompt` or `messages`", "give one of them")
        return self


class ScoreBody(Body):
    """`/v1/score`."""

    input: list[Given] = Field(min_length=1, max_length=256, fail_fast=True)
