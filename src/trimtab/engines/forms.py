"""JSON, whole or by a schema, as a grammar of tokens: which may come next.

llguidance knows the grammar: it refuses the parts of JSON Schema that it does not hold to, needs
nothing compiled beforehand, and bounds what a hostile schema can cost.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from trimtab.engines.restraints import Form
from trimtab.errors import ConfigError
from trimtab.models.protocols import Tokenizer

TYPES = ("text", "json_object", "json_schema")
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As json.dumps writes it: small models do not stop where any amount of white space may come."""


class Forms:
    """Makes forms for a base.

    Args:
        tokenizer: the base's.
        vocabulary: V, of its logits.
        ends: ids that end a turn.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, ends: Collection[int]) -> None:
        self._tokenizer, self._vocabulary, self._ends = tokenizer, vocabulary, ends

    def of(self, response_format: Mapping[str, Any] | None) -> Form | None:
        """A response's form; None for plain text.

        Raises:
            ConfigError: it cannot be read, or asks for what cannot be held to.
        """
        schema = schema_of(response_format)
        if schema is None:
            return None
        guidance = _guidance()
        tokens = self._tokens
        try:
            text = json.dumps(schema)
            grammar = guidance.LLMatcher.grammar_from_json_schema(text, defaults=_SPACING)
        except (ValueError, RecursionError) as error:
            raise _unreadable(error) from None
        matcher = guidance.LLMatcher(tokens, grammar, log_level=0)
        if matcher.is_error():
            raise _unreadable(matcher.get_error())
        return JsonForm(matcher, self._vocabulary)

    @cached_property
    def _tokens(self) -> Any:
        from llguidance.hf import from_tokenizer

        try:
            return from_tokenizer(
                self._tokenizer,
                n_vocab=self._vocabulary,
                eos_token=sorted(self._ends),
            )
        except ValueError as error:
            raise ConfigError(
                f"no response_format for this tokenizer: {error}", "ask for text"
            ) from None


class JsonForm:
    """JSON so far.

    Args:
        matcher: llguidance's.
        vocabulary: V.
    """

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    def copy(self) -> JsonForm:
        """Another one that is as far."""
        return JsonForm(self._matcher.deep_copy(), self._vocabulary)

    def take(self, token: int) -> None:
        """The next token.

        Raises:
            ConfigError: it is not allowed there.
        """
        if not self._matcher.consume_token(token):
            raise ConfigError(f"the response_format: {self._matcher.get_error()}", "ask for text")

    def allowed(self) -> Tensor:
        """Tokens that may come next, [V] bool.

        Raises:
            ConfigError: the grammar grew beyond its bounds.
        """
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        if self._matcher.is_error():
            raise ConfigError(f"the response_format: {self._matcher.get_error()}", "ask for text")
        allowed = (bits[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        return allowed.flatten()[: self._vocabulary].bool()


def schema_of(response_format: Mapping[str, Any] | None) -> Any:
    """The JSON schema of a response format; None for plain text.

    Raises:
        ConfigError: it is not one of `TYPES`, or has no schema.
    """
    if response_format is None:
        return None
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind not in TYPES:
        raise ConfigError(f"response_format is of type {kind!r}", f"there are: {', '.join(TYPES)}")
    known = ("type", "json_schema") if kind == "json_schema" else ("type",)
    _require_known("response_format", response_format, known)
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    inner = response_format.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(schema, Mapping | bool):
        hint = 'write {"type": "json_schema", "json_schema": {"schema": {...}}}'
        raise ConfigError("response_format has no JSON schema", hint)
    _require_known("json_schema", inner, ("name", "description", "schema", "strict"))
    return schema


def _require_known(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse what would be dropped in silence; null says nothing.

    Raises:
        ConfigError: it names the first key.
    """
    other = next((key for key, held in given.items() if key not in known and held is not None), "")
    if other:
        raise ConfigError(f"{what} has {other!r}", f"it takes {', '.join(known)}")


def _guidance() -> Any:
    try:
        import llguidance
    except ImportError:
        raise ConfigError(
            "a response_format needs llguidance, which is not installed",
            "pip install 'trimtab[serve]'",
        ) from None
    return llguidance


def _unreadable(error: object) -> ConfigError:
    return ConfigError(
        f"the schema of response_format: {error}", "see docs/serve.md for what is held to"
    )
