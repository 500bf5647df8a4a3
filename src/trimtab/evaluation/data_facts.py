"""What preference data hold, before anything is trained on them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.data.loading import read_everything
from trimtab.data.pairs import Comparison, Pair, split_of
from trimtab.data.reading import Reading
from trimtab.data.tally import RowTally
from trimtab.errors import ConfigError
from trimtab.evaluation.floors import longer_is_better
from trimtab.evaluation.rendered import Rendered, example_of, lengths_of
from trimtab.models.messages import first_user_turn
from trimtab.models.protocols import Tokenizer
from trimtab.scoring.labels import agreement
from trimtab.stats import Estimate, share_in_groups

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ObjectiveReport:
    """The pairs that are judged on one objective.

    Attributes:
        pairs: how many.
        splits: of them, by the hash of their prompts.
        longer: how often the better answer is the longer one; a tie counts one half.
    """

    pairs: int
    splits: dict[str, int]
    longer: Estimate


@dataclass(frozen=True)
class DataFacts:
    """What preference data hold.

    Attributes:
        rows: what became of the rows: layouts, those left out and why, columns not used.
        pairs: that can be used.
        repeated: of them, those that stand there more than once.
        prompts: different prompts.
        several_turns: prompts with an earlier answer in them.
        with_system: prompts with a system turn.
        objectives: "" where the data name none.
        agreement: two objectives -> share of the pairs that both decide on which they agree.
        unit: of the lengths: tokens, or words where no model is named.
        lengths: `prompt`, `answer` (the longer one), `pair` (both together) -> median, 95 % and
            longest.
        measured: pairs that were measured for the lengths, at even distances.
        example: one pair as it is trained.
    """

    rows: RowTally
    pairs: int
    repeated: int
    prompts: int
    several_turns: int
    with_system: int
    objectives: dict[str, ObjectiveReport]
    agreement: dict[str, Estimate]
    unit: str
    lengths: dict[str, dict[str, int]]
    measured: int
    example: Rendered


def inspect_data(
    data: str | os.PathLike[str] | Sequence[str],
    *,
    model: str | None = None,
    columns: str | Mapping[str, str] = "",
    pairs_per_prompt: int = 0,
    trust_remote_code: bool = False,
) -> DataFacts:
    """Read preference data as training would, and say what is there. Nothing is written.

    Malformed rows are counted; `trimtab train` refuses them unless `skip_bad_rows` is set.

    Args:
        data: files, folders of `datasets` or hub ids; `NAME=FILE` names an objective.
        model: a folder or hub id, of which only the tokenizer is loaded: lengths in its tokens, and
            the example as its chat template writes it. Without one, lengths are words.
        columns: which columns hold what, where no layout fits.
        pairs_per_prompt: of several answers to a prompt, that many pairs; 0 for all.
        trust_remote_code: run tokenizer code that comes with the model.

    Raises:
        DataError: data of which no row can be used.
        TrimtabError: a model whose tokenizer cannot be loaded.
    """
    sources = [str(data)] if isinstance(data, str | os.PathLike) else [str(file) for file in data]
    if not sources:
        raise ConfigError("no data", "name a file, a folder of `datasets` or a hub id")
    pairs, tally = read_everything(sources, Reading.of(columns, pairs_per_prompt))
    tokenizer = _tokenizer(model, trust_remote_code)
    prompts = {repr(pair.prompt): pair.prompt for pair in pairs}
    chats = [prompt for prompt in prompts.values() if not isinstance(prompt, str)]
    texts = Counter((repr(p.prompt), *sorted((p.chosen, p.rejected))) for p in pairs)
    names = list(dict.fromkeys(name for pair in pairs for name in pair.verdicts))
    measured, lengths = lengths_of(pairs, tokenizer)
    return DataFacts(
        rows=tally,
        pairs=len(pairs),
        repeated=sum(texts.values()) - len(texts),
        prompts=len(prompts),
        several_turns=sum(any(m["role"] == "assistant" for m in chat) for chat in chats),
        with_system=sum(chat[0]["role"] == "system" for chat in chats if chat),
        objectives={name: _of_objective(pairs, name) for name in names},
        agreement=agreement([pair.verdicts for pair in pairs], [n for n in names if n], kept=True),
        unit="tokens" if tokenizer else "words",
        lengths=lengths,
        measured=measured,
        example=example_of(pairs, tokenizer),
    )


def _tokenizer(model: str | None, trust_remote_code: bool) -> Tokenizer | None:
    if model is None:
        return None
    from trimtab.arms.load import tokenizer_of

    return tokenizer_of(model, trust_remote_code=trust_remote_code)


def decided(pair: Comparison, objective: str) -> Pair:
    """A pair with the better answer on one objective first."""
    sides = (pair.chosen, pair.rejected)
    if pair.verdicts[objective]:
        sides = sides[::-1]
    return Pair(pair.prompt, *sides, objective, pair.source, pair.verbatim)


def _of_objective(pairs: Sequence[Comparison], name: str) -> ObjectiveReport:
    judged = [decided(pair, name) for pair in pairs if name in pair.verdicts]
    splits = Counter[str](split_of(pair.prompt) for pair in judged)
    longer = over_prompts(judged, longer_is_better(judged))
    return ObjectiveReport(len(judged), {split: splits[split] for split in SPLITS}, longer)


def over_prompts(pairs: Sequence[Pair], right: float) -> Estimate:
    """A share of pairs with an interval as wide as if each prompt had but one of them.

    Pairs of one prompt share their answers: they are no independent observations.
    """
    prompts = len({first_user_turn(pair.prompt) for pair in pairs})
    return share_in_groups(right, len(pairs), prompts)
