"""Tokenizers as SentencePiece's: a space is part of the word behind it."""

from __future__ import annotations

from typing import Any

WORDS = ["▁", "▁the", "▁y", "the", "y", "▁cat", "a", ".", "日", "本"]
SPECIAL = ["<unk>", "<s>", "</s>", "<|x|>"]


def sentencepiece(kind: str) -> Any:
    """As Llama 2's tokenizer: `▁` is a space, other characters are bytes; the first space of a
    decoded text goes, by `Strip` in one layout and by `Metaspace` in the other."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    llama = [
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]  # fmt: skip
    metaspace = [decoders.ByteFallback(), decoders.Metaspace()]
    raw.decoder = decoders.Sequence(llama if kind == "llama" else metaspace)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<|x|>"],
    )  # fmt: skip


def ids_of(tokenizer: Any, pieces: list[str]) -> list[int]:
    """Characters outside the vocabulary are their bytes."""
    vocab = tokenizer.get_vocab()
    own = [[vocab[p]] if p in vocab else [4 + byte for byte in p.encode()] for p in pieces]
    return [i for ids in own for i in ids]
