"""One preference pair, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from trimtab.models.messages import Prompt, prompt_hash


class Unusable(Exception):
    """A well-formed row from which no pair can be made; the text is the reason."""


Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, the better one first.

    Attributes:
        prompt: text, or the chat up to and including the last user turn.
        chosen: the better response, text.
        rejected: the worse response, text.
        objective: the objective this pair was judged on, "" when the data name none.
        source: where the row stands, such as `pairs.jsonl:12`.
        verbatim: the prompt is raw text cut mid-sentence and must not be put in a chat template.
        subset: the part of the data that the row belongs to, "" unless `Reading.subset` asks for
            it.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    objective: str = ""
    source: str = ""
    verbatim: bool = False
    subset: str = ""


@dataclass(frozen=True)
class Comparison(Pair):
    """Two responses judged on several objectives, in the order of the row.

    Attributes:
        chosen: the first response.
        rejected: the second one.
        verdicts: objective -> index of the better response; without those it was not judged on.
    """

    verdicts: Mapping[str, int] = field(default_factory=dict)


def split_of(prompt: Prompt) -> Split:
    """The split of a prompt by its hash modulo 10: 0 test, 1 validation, the rest train."""
    residue = prompt_hash(prompt) % 10
    return "test" if residue == 0 else "validation" if residue == 1 else "train"
