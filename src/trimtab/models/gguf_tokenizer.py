"""The tokenizer of a GGUF file, as its file describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, pre_tokenizers, processors
from transformers.convert_slow_tokenizer import bytes_to_unicode

from trimtab.errors import ModelLoadError, first_line

Fields = Mapping[str, Any]

_LLAMA_3 = {
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
}
_WHOLE_WORDS = {*_LLAMA_3, "tekken"}
"""Pre-tokenizers whose words are taken whole where the vocabulary has them, before any merge, and
which begin with begin-of-text unless the file says otherwise (as llama.cpp reads them)."""


_BYTES = bytes_to_unicode()


def load_gguf_tokenizer(path: Path, place: str, fields: Fields) -> Any:
    """The tokenizer, with what transformers' reader leaves out.

    Args:
        path: of the file.
        place: a folder where the file lies alone.
        fields: of the file.

    Raises:
        ModelLoadError: a pre-tokenizer or a setting that is not known, named.
    """
    _check_pre_tokenizer(path, fields)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, gguf_file=path.name)
    except Exception as error:
        raise ModelLoadError(
            f"transformers cannot read the tokenizer of {path} ({first_line(error)})",
            "use the model's own folder (safetensors) in its place",
        ) from error
    backend, pre = tokenizer.backend_tokenizer, fields.get("tokenizer.ggml.pre")
    if pre == "smollm":  # missing from transformers' table: single digits, then byte level
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    if pre in _WHOLE_WORDS and fields.get("tokenizer.ggml.model") == "gpt2":
        backend.model.ignore_merges = True
    _frame(tokenizer, fields)
    tokenizer = _without_strangers(tokenizer, fields)
    _check_vocabulary(path, tokenizer, fields)
    return tokenizer


def end_ids(fields: Fields) -> list[int]:
    """Ids that end a text or a turn."""
    names = ("eos", "eot", "eom")
    ids = [fields.get(f"tokenizer.ggml.{name}_token_id") for name in names]
    return list(dict.fromkeys(i for i in ids if i is not None))


def _check_pre_tokenizer(path: Path, fields: Fields) -> None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    pre = fields.get("tokenizer.ggml.pre")
    known = {*GGUF_PRE_TOKENIZER_SPLITS, "gpt-2", "smollm"}
    if fields.get("tokenizer.ggml.model") == "gpt2" and pre not in known:
        raise ModelLoadError(
            f"{path} splits words by {pre!r}, a pre-tokenizer that transformers does not read",
            "use the model's own folder (safetensors) in its place",
        )


def _frame(tokenizer: Any, fields: Fields) -> None:
    """Begin (and end) texts as the file says; transformers' reader does not look."""
    kind, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    begins = fields.get("tokenizer.ggml.add_bos_token", kind == "llama" or pre in _WHOLE_WORDS)
    ends = fields.get("tokenizer.ggml.add_eos_token", False)
    first = [tokenizer.bos_token] if begins and tokenizer.bos_token else []
    last = [tokenizer.eos_token] if ends and tokenizer.eos_token else []
    if not first and not last:
        return
    framed = processors.TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", *last, *(f"{token}:1" for token in first), "$B:1", *last],
        special_tokens=[(t, tokenizer.convert_tokens_to_ids(t)) for t in {*first, *last}],
    )
    frame = tokenizer.backend_tokenizer.post_processor
    byte_level = isinstance(frame, processors.ByteLevel)
    tokenizer.backend_tokenizer.post_processor = (
        processors.Sequence([frame, framed]) if byte_level else framed
    )


def _without_strangers(tokenizer: Any, fields: Fields) -> Any:
    """Without tokens that the reader's tokenizer class brings along (`<|endoftext|>`, say): their
    ids lie behind the model's embeddings."""
    count = len(fields["tokenizer.ggml.tokens"])
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = [token for token in state["added_tokens"] if token["id"] < count]
    if len(kept) == len(state["added_tokens"]):
        return tokenizer
    state["added_tokens"] = kept
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: fields.get(f"tokenizer.ggml.{role}_token_id") for name, role in names.items()}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        chat_template=tokenizer.chat_template,
        **{n: fields["tokenizer.ggml.tokens"][i] for n, i in ids.items() if i is not None},
    )


def _check_vocabulary(path: Path, tokenizer: Any, fields: Fields) -> None:
    """Every id must be the file's token, and a word begin as the file says."""
    tokens = fields["tokenizer.ggml.tokens"]
    by_id = {i: token for token, i in tokenizer.get_vocab().items()}
    other = [
        f"{i} is {by_id.get(i)!r} and not {token!r}"
        for i, token in enumerate(tokens)
        if by_id.get(i) not in (token, token.replace(" ", "▁"), _in_bytes(token))
    ]
    other += [f"{len(by_id)} tokens, not {len(tokens)}"] if len(by_id) != len(tokens) else []
    if fields.get("tokenizer.ggml.model") == "llama":
        spaced = fields.get("tokenizer.ggml.add_space_prefix", True)
        begins = tokenizer.tokenize("a", add_special_tokens=False)[0].startswith("▁")
        if bool(spaced) != begins:
            other.append(f"add_space_prefix is {spaced}")
    if other:
        raise ModelLoadError(
            f"transformers reads the tokenizer of {path} otherwise: {other[0]}",
            "use the model's own folder (safetensors) in its place",
        )


def _in_bytes(token: str) -> str:
    """A token as byte-level vocabularies spell it."""
    return "".join(_BYTES[byte] for byte in token.encode())
