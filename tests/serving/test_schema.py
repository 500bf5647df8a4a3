"""Anything that the OpenAPI schema allows, and much that it does not: never our own fault."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import pytest
from conftest import examples
from hypothesis import given

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode

PAGES = [
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/score", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{name}", "GET"),
    ("/health", "GET"),
    ("/version", "GET"),
    ("/metrics", "GET"),
]
SETTINGS = ("preference", "instruct", "vllm_xargs", "logit_bias", "response_format", "strength")
SETTINGS += ("kl_budget", "gate", "stream_options", "top_logprobs", "max_completion_tokens")
"""Fields that can seldom be answered where they are drawn by type alone."""


@pytest.fixture(scope="module")
def schema(own_url: str) -> Any:
    return schemathesis.openapi.from_url(f"{own_url}/openapi.json", timeout=120)


def test_these_are_all_pages(schema: Any) -> None:
    found = {(o.ok().path, o.ok().method.upper()) for o in schema.get_all_operations()}
    assert found == {*PAGES}


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        *((path, method, GenerationMode.POSITIVE) for path, method in PAGES),
        *((path, method, GenerationMode.NEGATIVE) for path, method in PAGES if method == "POST"),
    ],
)
def test_no_request_is_our_fault(schema: Any, path: str, method: str, mode: Any) -> None:
    page, mended = schema[path][method], Counter[int]()

    @examples(40)
    @given(page.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if isinstance(case.body, dict):
            make_small(case.body, path)
        assert case.call(timeout=120).status_code < 500
        if method == "POST" and mode is GenerationMode.POSITIVE:
            mend(case.body)
            reply = case.call(timeout=120)
            assert reply.status_code < 500
            mended[reply.status_code] += 1

    ask()
    # else nothing behind the first checks was tried; 1.0 is an integer for the schema alone
    assert mended[200] >= mended.total() / 2, mended


def make_small(body: dict[str, Any], path: str) -> None:
    """Past the check of the name, and done soon; what is wrong stays wrong."""
    body["model"] = "tiny"
    if path != "/v1/score":
        body.setdefault("max_tokens", 4)
        for name in ("max_tokens", "max_completion_tokens", "n"):
            if type(body.get(name)) is int:
                body[name] = min(body[name], 4)


def mend(body: dict[str, Any]) -> None:
    """Make a body that the schema allows one that this server can answer."""
    for name in SETTINGS:
        body.pop(name, None)
    for one in body.get("input", []):
        one["prompt"] = None if one.get("messages") else "the cat"
    for chat in [body, *body.get("input", [])]:
        mend_chat(chat.get("messages") or [])
    if isinstance(body.get("prompt"), list):
        body["prompt"] = [ids_of_tiny(one) for one in body["prompt"]]
    if body.get("prompt") == "":
        body["prompt"] = "the cat"


def mend_chat(messages: list[dict[str, Any]]) -> None:
    """Its template takes no system turn, and shows no tools."""
    for number, turn in enumerate(messages, 1):
        if turn["role"] != "assistant" or number == len(messages):
            turn["role"] = "user"
        for name in ("tool_calls", "tool_call_id", "reasoning_content"):
            turn.pop(name, None)
        turn["content"] = turn.get("content") or "the cat"


def ids_of_tiny(prompt: Any) -> Any:
    """A token of its vocabulary, or some of them, or a text that is not empty."""
    if isinstance(prompt, list):
        return [ids_of_tiny(token) for token in prompt]
    return prompt % 200 if isinstance(prompt, int) else prompt or "the cat"
