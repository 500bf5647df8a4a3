"""The messages of a chat, over HTTP: what a template may read of them, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trimtab.errors import ConfigError


class _Strict(BaseModel):
    """Of known keys alone; others are let pass where they hold nothing, as in answers sent back."""

    model_config = ConfigDict(strict=True, extra="forbid")
    ignored: ClassVar[tuple[str, ...]] = ()
    """Keys that may hold anything."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        empty = {key for key in given.keys() - cls.model_fields if not _holds(given[key])}
        return {key: given[key] for key in given.keys() - empty - {*cls.ignored}}


def _holds(value: Any) -> bool:
    """Whether anything stands in a value, at any depth."""
    if isinstance(value, dict | list):
        return any(map(_holds, value.values() if isinstance(value, dict) else value))
    return value is not None


class TextPart(_Strict):
    """A part of a content."""

    type: Literal["text"] = Field(description="`text`; there is no other")
    text: str


class Turn(_Strict):
    """A message of a chat. Its fields, and no others, are what a chat template may read."""

    ignored: ClassVar[tuple[str, ...]] = ("parsed",)  # OpenAI's client adds it: content, once more
    whose: ClassVar[Mapping[str, str]] = {
        "reasoning_content": "assistant",
        "tool_calls": "assistant",
        "tool_call_id": "tool",
    }
    """Fields that only turns of one role have."""

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(
        description="`developer` is read as `system`"
    )
    content: str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)] | None = Field(
        None, description="Parts are joined; nothing only beside `tool_calls`"
    )
    name: str | None = Field(None, description="Given to the template, as are the following")
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Turn:
        if self.content is None and not self.tool_calls:
            raise ConfigError("a message has no content", "give text, or a list of text parts")
        for name, role in self.whose.items():
            if getattr(self, name) and self.role != role:
                raise ConfigError(
                    f"a message has the role {self.role!r} and {name}", f"it is for {role!r} alone"
                )
        return self
