"""A token's text is what it adds to a text, wherever it stands."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import make_tokenizer
from sentencepieces import ids_of, sentencepiece

from trimtab.models.token_texts import token_text


@pytest.mark.parametrize("kind", ["llama", "metaspace"])
def test_a_space_before_a_word_is_its_own(kind: str) -> None:
    tokenizer = sentencepiece(kind)
    texts = {"▁": " ", "▁the": " the", "the": "the", ".": ".", "日": "日", "<|x|>": "<|x|>"}
    texts |= {"</s>": "</s>", "<0x41>": "A", "<0x20>": " ", "<0xE6>": "\ufffd"}
    vocab = tokenizer.get_vocab()
    assert {piece: token_text(tokenizer, vocab[piece]) for piece in texts} == texts


@pytest.mark.parametrize("kind", ["llama", "metaspace"])
def test_behind_the_first_token_texts_add_up(kind: str) -> None:
    tokenizer = sentencepiece(kind)
    ids = ids_of(tokenizer, ["y", "▁", "▁the", "<|x|>", "▁cat", "."])
    assert "".join(token_text(tokenizer, i) for i in ids) == tokenizer.decode(ids)


def test_bytes_of_a_byte_level_vocabulary() -> None:
    tokenizer: Any = make_tokenizer()
    ids = tokenizer("the cat sat é")["input_ids"]
    whole = "".join(token_text(tokenizer, i) for i in ids)
    assert whole == "the cat sat \ufffd\ufffd"
    for token in tokenizer.get_vocab().values():
        assert token_text(tokenizer, token) == tokenizer.decode([token])  # which drops nothing
