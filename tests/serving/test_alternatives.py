"""Tokens by their texts, where several have the same, and where a text begins with a space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import make_model
from sentencepieces import sentencepiece
from test_lifecycle import ask

from trimtab.engines.local import LocalEngine
from trimtab.engines.local.streams import Stream
from trimtab.engines.types import Alternative, TokenReport
from trimtab.models.vocabulary import VocabularyMap
from trimtab.serving.logprobs import text_logprobs


def test_tokens_of_one_text_are_told_apart() -> None:
    others = [
        Alternative(i, text, 0, {}, -i) for i, text in ((1, "a"), (2, "\ufffd"), (3, "\ufffd"))
    ]
    far = TokenReport(9, "a", 0, {}, -9, alternatives=others)
    near = TokenReport(3, "\ufffd", 0, {}, -3, alternatives=others)
    alone = TokenReport(5, "b", 0, {}, -5)
    first, second, third = text_logprobs([far, near, alone], 4)["top_logprobs"]
    assert first == {"a": -1, "\ufffd": -2, "token_id:3": -3, "token_id:9": -9}
    assert second == {"a": -1, "\ufffd": -2, "token_id:3": -3}
    assert third == {"b": -5}


@pytest.fixture(scope="module")
def spaced() -> Iterator[LocalEngine]:
    """Over a vocabulary as Llama 2's, whose words have their spaces."""
    tokenizer = sentencepiece("llama")
    size = len(tokenizer)
    base = Stream("base", make_model(0, size), tokenizer, VocabularyMap(size, size), "raw")
    engine = LocalEngine(base, [])
    yield engine
    engine.close()


def test_words_have_their_spaces(spaced: LocalEngine) -> None:
    the = spaced.base.tokenizer.get_vocab()["▁the"]
    bias = {"logit_bias": {str(the): 100}, "max_tokens": 3, "logprobs": 20}
    reply: Any = ask(spaced, path="/v1/completions", json={"model": "tiny", "prompt": [4], **bias})
    choice = reply.json()["choices"][0]
    found = choice["logprobs"]
    assert choice["text"] == " the the the" and found["tokens"] == [" the"] * 3
    assert found["text_offset"] == [0, 4, 8]
    assert all(" the" in best for best in found["top_logprobs"])


def test_scored_tokens_have_their_spaces(spaced: LocalEngine) -> None:
    asked = {"model": "tiny", "input": [{"prompt": "y", "response": "a y."}]}
    [one] = ask(spaced, path="/v1/score", json=asked).json()["data"]
    assert one["tokens"] == ["a", " ", "y", ".", "</s>"]
