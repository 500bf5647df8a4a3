"""Responses with a score each: what a value model learns from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.data.chats import prompt_of
from trimtab.data.pairs import Unusable, split_of
from trimtab.data.sources import Row, read_rows
from trimtab.data.tally import RowTally
from trimtab.errors import DataError
from trimtab.models.messages import Prompt, require_characters
from trimtab.models.prompts import StartedPrompt
from trimtab.models.protocols import Tokenizer
from trimtab.models.templates import TemplateError
from trimtab.models.types import PromptFormat


@dataclass(frozen=True)
class Sample:
    """A response that a model gave, and its score.

    Attributes:
        prompt: text, or a chat up to and including the last user turn.
        response: text.
        score: of the whole response; more is better.
        source: where the row stands.
        finished: it ended by itself; else its last token is its last word.
    """

    prompt: Prompt
    response: str
    score: float
    source: str = ""
    finished: bool = True


@dataclass(frozen=True)
class TokenSample:
    """Token ids of one sample.

    Attributes:
        prompt_ids: of the prompt.
        response_ids: of the response, with the end of its turn where it came to that.
        sample: the texts.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    sample: Sample

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


def read_samples(
    sources: Sequence[str], *, skip_bad_rows: bool = False
) -> tuple[list[Sample], RowTally]:
    """Read rows with `prompt`, `response` (or `text`) and `score` (or `reward`).

    Args:
        sources: what `read_rows` takes.
        skip_bad_rows: count malformed rows as unusable instead of refusing the data.

    Raises:
        DataError: a malformed row, or no usable one.
    """
    samples: list[Sample] = []
    tally = RowTally()
    for source in sources:
        for place, row in read_rows(source):
            tally.count("scored responses", ())
            try:
                samples.append(sample_of(row, place))
            except Unusable as reason:
                tally.leave_out(str(reason), place)
            except DataError as error:
                if not skip_bad_rows:
                    raise
                tally.leave_out_malformed(error, place)
    if not samples:
        reasons = "; ".join(tally.reasons()) or "no rows"
        raise DataError(f"no usable row in {', '.join(map(str, sources))}", reasons)
    return samples, tally


def split_samples(samples: Sequence[Sample], split: str) -> dict[str, list[Sample]]:
    """Samples by the hash of their prompt, without the test split; with `none` all for training."""
    if split == "none":
        return {"train": list(samples)}
    parts: dict[str, list[Sample]] = {"train": [], "validation": [], "test": []}
    for sample in samples:
        parts[split_of(sample.prompt)].append(sample)
    parts.pop("test")
    return parts


def sample_of(row: Row, place: str) -> Sample:
    """The scored response in a row; `finish_reason` `length` says that it was cut off.

    Raises:
        DataError: a column is missing or of the wrong type.
        Unusable: an empty response, or a row whose score is missing.
    """
    prompt, response = prompt_of(row, place), row.get("response", row.get("text"))
    if prompt is None or not isinstance(response, str):
        raise DataError(f"{place} has no text `prompt` and `response`", "mend the row")
    require_characters(response, place, "response")
    score: Any = row.get("score", row.get("reward"))
    if score is None:
        if "score" in row or "reward" in row:
            raise Unusable("no score")
        raise DataError(f"{place} has no `score`", "every row needs a number, more is better")
    if isinstance(score, str):
        score = _number(score)
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise DataError(f"{place} has score {score!r}", "write a number, more is better")
    if not response.strip():
        raise Unusable("the response is empty")
    finished = row.get("finish_reason") != "length"
    return Sample(prompt, response, float(score), place, finished)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def tokenize_samples(
    tokenizer: Tokenizer,
    samples: Sequence[Sample],
    *,
    max_length: int,
    prompt_format: PromptFormat = "auto",
    tally: RowTally,
) -> list[TokenSample]:
    """Tokenise samples; those longer than `max_length` tokens are left out and counted, never cut.

    Raises:
        DataError: none is left.
    """
    tokens: list[TokenSample] = []
    for sample in samples:
        try:
            item = _tokenized(tokenizer, sample, prompt_format)
        except TemplateError as error:
            tally.leave_out(error.args[0], sample.source)
            continue
        if not item.prompt_ids or not item.response_ids:
            tally.leave_out("the prompt or the response has no tokens", sample.source)
        elif len(item) > max_length:
            tally.leave_out(f"longer than {max_length} tokens", sample.source)
        else:
            tokens.append(item)
    if samples and not tokens:
        raise DataError(f"none of {len(samples)} rows can be used", "; ".join(tally.reasons()))
    return tokens


def _tokenized(tokenizer: Tokenizer, sample: Sample, prompt_format: PromptFormat) -> TokenSample:
    started = StartedPrompt.of(tokenizer, sample.prompt, prompt_format)
    ids = started.response_ids(tokenizer, sample.response)
    if not sample.finished:
        end = list(tokenizer(started.end, add_special_tokens=False)["input_ids"])
        end = end if started.end else [i for i in [tokenizer.eos_token_id] if i is not None]
        ids = ids[: -len(end)] if end and ids[-len(end) :] == end else ids
    return TokenSample(started.ids, ids, sample)
