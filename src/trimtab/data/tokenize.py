"""Token ids of preference pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from trimtab.data.pairs import Comparison, Pair
from trimtab.data.tally import RowTally
from trimtab.errors import DataError
from trimtab.models.prompts import StartedPrompt
from trimtab.models.protocols import Tokenizer
from trimtab.models.templates import (
    TemplateError,
    left_out,
)
from trimtab.models.types import PromptFormat


@dataclass(frozen=True)
class TokenPair:
    """Token ids of one pair. Each response ends with its turn, and nothing after it.

    Attributes:
        prompt_ids: of the prompt.
        chosen_ids: of the better response; of the first one where there are verdicts.
        rejected_ids: of the other.
        verdicts: objective -> index of the better response, for a pair judged on several.
        reference: rewards of the two under the model that training starts from, where the pair's
            own are measured against them.
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    verdicts: Mapping[str, int] = field(default_factory=dict)
    reference: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


def tokenize_pair(
    tokenizer: Tokenizer, pair: Pair, prompt_format: PromptFormat = "auto"
) -> TokenPair:
    """Token ids of a pair."""
    style: PromptFormat = "raw" if pair.verbatim else prompt_format
    started = StartedPrompt.of(tokenizer, pair.prompt, style)
    chosen, rejected = (
        started.response_ids(tokenizer, side) for side in (pair.chosen, pair.rejected)
    )
    verdicts = pair.verdicts if isinstance(pair, Comparison) else {}
    return TokenPair(started.ids, chosen, rejected, verdicts)


def tokenize_pairs(
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    *,
    max_length: int,
    prompt_format: PromptFormat = "auto",
    tally: RowTally,
    progress: Callable[[int], None] | None = None,
) -> list[TokenPair]:
    """Tokenise pairs; those longer than `max_length` tokens are left out and counted, never cut.

    Args:
        tokenizer: a transformers tokenizer.
        pairs: what to tokenise.
        max_length: tokens of prompt and longer response together.
        prompt_format: how plain-text prompts are read.
        tally: where unusable pairs are counted.
        progress: told now and then how many pairs are done.

    Raises:
        DataError: no pair is left.
    """
    tokens: list[TokenPair] = []
    too_long: list[int] = []
    for number, pair in enumerate(pairs, 1):
        if progress and (number % 500 == 0 or number == len(pairs)):
            progress(number)
        try:
            item = tokenize_pair(tokenizer, pair, prompt_format)
        except TemplateError as error:
            tally.leave_out(error.args[0], pair.source)
            continue
        if item.chosen_ids == item.rejected_ids:
            tally.leave_out("both sides are the same tokens", pair.source)
        elif not item.prompt_ids:
            tally.leave_out("the prompt has no tokens", pair.source)
        elif len(item) > max_length:
            tally.leave_out(f"longer than {max_length} tokens", pair.source)
            too_long.append(len(item))
        else:
            tokens.append(item)
            for part in left_out(tokenizer, pair.prompt):
                tally.note(f"the chat template does not show {part}", pair.source)
    if pairs and not tokens and too_long:
        raise DataError(
            f"none of {len(pairs)} pairs fits in --max-length {max_length} "
            f"(the shortest has {min(too_long)} tokens)",
            "raise --max-length",
        )
    if pairs and not tokens:
        raise DataError(f"none of {len(pairs)} pairs can be used", "; ".join(tally.reasons()))
    return tokens
