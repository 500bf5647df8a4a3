"""Anything that the OpenAPI schema allows, and much that it does not: never our own fault."""

from __future__ import annotations

import warnings
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


@pytest.fixture(scope="module")
def schema(own_url: str) -> Any:
    return schemathesis.openapi.from_url(f"{own_url}/openapi.json")


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
    page = schema[path][method]

    @examples(40)
    @given(page.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if isinstance(case.body, dict) and mode is GenerationMode.POSITIVE:
            case.body["model"] = "tiny"  # beyond the first check
            if method == "POST" and path != "/v1/score":
                case.body["max_tokens"] = 4
                case.body["n"] = 1
        assert case.call(timeout=120).status_code < 500

    ask()
