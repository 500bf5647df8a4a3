"""Pairs as a model reads them: lengths, and one written out with what is rewarded marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.data.pairs import Comparison
from trimtab.data.tokenize import TokenPair, tokenize_pair
from trimtab.errors import DataError
from trimtab.models.messages import Prompt
from trimtab.models.protocols import Tokenizer
from trimtab.models.templates import TemplateError

SAMPLE = 1000
_SHORT = 700  # characters: a pair of so many is read at a glance


@dataclass(frozen=True)
class Rendered:
    """One pair, written out.

    Attributes:
        source: where it stands.
        prompt: what comes before the answers, as the model reads it.
        better: the better answer on `objective`: the text that is rewarded.
        worse: the other one.
        objective: "" where the data name none.
        tokens: of prompt, better and worse answer; empty without a model.
    """

    source: str
    prompt: str
    better: str
    worse: str
    objective: str
    tokens: list[int]


def lengths_of(
    pairs: Sequence[Comparison], tokenizer: Tokenizer | None
) -> tuple[int, dict[str, dict[str, int]]]:
    """Lengths of at most `SAMPLE` pairs at even distances, and how many those are.

    Args:
        pairs: one or more.
        tokenizer: a transformers tokenizer, or None for words.

    Raises:
        DataError: a template that takes none of them.
    """
    step = max(1, -(-len(pairs) // SAMPLE))
    columns_of: list[list[int]] = []
    refused = ""
    for pair in pairs[::step]:
        try:
            columns_of.append(
                _counts(tokenize_pair(tokenizer, pair)) if tokenizer else _words(pair)
            )
        except TemplateError as error:
            refused = refused or error.args[0]
    if not columns_of:
        raise DataError(f"{pairs[0].source}: {refused}", "mend the chats or the template")
    columns = [sorted(column) for column in zip(*columns_of, strict=True)]
    names = ("prompt", "answer", "pair")
    return len(columns_of), {
        name: {
            "median": _quantile(counts, 0.5),
            "95 %": _quantile(counts, 0.95),
            "longest": counts[-1],
        }
        for name, counts in zip(names, columns, strict=True)
    }


def _counts(tokens: TokenPair) -> list[int]:
    return [len(tokens.prompt_ids), len(tokens) - len(tokens.prompt_ids), len(tokens)]


def _words(pair: Comparison) -> list[int]:
    prompt = len(_as_text(pair.prompt).split())
    answer = max(len(pair.chosen.split()), len(pair.rejected.split()))
    return [prompt, answer, prompt + answer]


def _quantile(values: Sequence[int], share: float) -> int:
    return values[min(len(values) - 1, int(share * len(values)))]


def example_of(pairs: Sequence[Comparison], tokenizer: Tokenizer | None) -> Rendered:
    """The first pair that is short enough to read, or else the first, on its first objective."""

    def size(pair: Comparison) -> int:
        return len(_as_text(pair.prompt)) + len(pair.chosen) + len(pair.rejected)

    pair = next((pair for pair in pairs if size(pair) <= _SHORT), pairs[0])
    objective, second_is_better = next(iter(pair.verdicts.items()))
    prompt, better, worse = _as_text(pair.prompt), pair.chosen, pair.rejected
    tokens: list[int] = []
    if tokenizer is not None:
        tokenized = tokenize_pair(tokenizer, pair)
        ids = (tokenized.prompt_ids, tokenized.chosen_ids, tokenized.rejected_ids)
        prompt, better, worse = map(tokenizer.decode, ids)
        tokens = [len(row) for row in ids]
    if second_is_better:
        better, worse, tokens = worse, better, tokens[:1] + tokens[:0:-1]
    return Rendered(pair.source, prompt, better, worse, objective, tokens)


def _as_text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
