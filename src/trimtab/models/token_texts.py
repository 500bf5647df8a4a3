"""The text of single tokens, as it stands inside a text."""

from __future__ import annotations

from trimtab.models.protocols import Tokenizer


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token's own text, a space before a word included; of part of a character U+FFFD.

    Some tokenizers drop the space before the first token that they decode, so it is decoded behind
    itself.
    """
    alone, twice = tokenizer.decode([token]), tokenizer.decode([token, token])
    return twice[len(alone) :] if twice.startswith(alone) else alone
