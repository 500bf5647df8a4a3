"""The text of single tokens, as it stands inside a text."""

from __future__ import annotations

from trimtab.models.protocols import Tokenizer


class TokenTexts(dict[int, str]):
    """A token's own text, a space before a word included; of part of a character U+FFFD.

    Some tokenizers drop the space before the first token that they decode, so a token is decoded
    behind itself; once, as an engine asks for many at every step.

    Args:
        tokenizer: whose tokens they are.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token: int) -> str:
        decode = self._tokenizer.decode
        alone, twice = decode([token]), decode([token, token])
        text = self[token] = twice[len(alone) :] if twice.startswith(alone) else alone
        return text
