"""A token's text is what it adds to a text, wherever it stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from conftest import make_tokenizer
from oracle import GREEDY, engine_of
from sentencepieces import ids_of, sentencepiece

from trimtab.engines.types import Request
from trimtab.models.token_texts import TokenTexts


@pytest.mark.parametrize("kind", ["llama", "metaspace"])
def test_a_space_before_a_word_is_its_own(kind: str) -> None:
    tokenizer = sentencepiece(kind)
    texts = {"▁": " ", "▁the": " the", "the": "the", ".": ".", "日": "日", "<|x|>": "<|x|>"}
    texts |= {"</s>": "</s>", "<0x41>": "A", "<0x20>": " ", "<0xE6>": "\ufffd"}
    found, vocab = TokenTexts(tokenizer), tokenizer.get_vocab()
    assert {piece: found[vocab[piece]] for piece in texts} == texts


@pytest.mark.parametrize("kind", ["llama", "metaspace"])
def test_behind_the_first_token_texts_add_up(kind: str) -> None:
    tokenizer = sentencepiece(kind)
    texts, ids = TokenTexts(tokenizer), ids_of(tokenizer, ["y", "▁", "▁the", "<|x|>", "▁cat", "."])
    assert "".join(texts[i] for i in ids) == tokenizer.decode(ids)


def test_bytes_of_a_byte_level_vocabulary() -> None:
    tokenizer: Any = make_tokenizer()
    ids = tokenizer("the cat sat é")["input_ids"]
    texts = TokenTexts(tokenizer)
    assert "".join(texts[i] for i in ids) == "the cat sat \ufffd\ufffd"
    for token in tokenizer.get_vocab().values():
        assert texts[token] == tokenizer.decode([token])  # which drops nothing


def test_a_text_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many steps report it: two calls for each of the twelve tokens that there are."""
    engine, calls = engine_of([1, 2]), list[Sequence[int]]()
    decode = type(engine.base.tokenizer).decode

    def counted(self: Any, ids: Any, **options: Any) -> Any:
        calls.extend([ids] * (not options))  # the answer's own text skips special tokens
        return decode(self, ids, **options)

    monkeypatch.setattr(type(engine.base.tokenizer), "decode", counted)
    for prompt in ("w1", "w2 w3"):
        asked = Request(prompt, sampling=GREEDY, report=True, alternatives=12)
        [answer] = engine.generate([asked])
        assert [len(token.alternatives) for token in answer.tokens] == [12] * 8
        assert len(calls) == 24
