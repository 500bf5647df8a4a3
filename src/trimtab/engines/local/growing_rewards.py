"""A reward model's scalar for responses that grow: what was read of them is not read again.

A search rates many responses that begin alike, a few tokens further each time. Each response under
way has rows of keys and values as the base's requests have; a row that is to hold another response
keeps what both begin with and takes the rest, as far as any row has it, from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trimtab.arms.reward_model import RewardModel
from trimtab.arms.reward_reader import Beginning
from trimtab.engines.local.group_cache import Entry
from trimtab.engines.local.packed_rows import PackedRows
from trimtab.engines.local.prefixes import BLOCK
from trimtab.engines.local.reward_rows import NoPiecesError, new_row, open_rows
from trimtab.engines.local.shelves import Move
from trimtab.engines.local.stream_rows import StreamRow, common_prefix, own_ids
from trimtab.errors import VocabularyError
from trimtab.models.messages import Prompt
from trimtab.models.protocols import Tokenizer
from trimtab.models.vocabulary import VocabularyMap, match_vocabularies

logger = logging.getLogger(__name__)

CHUNK = 512
"""Tokens in one forward."""


@dataclass(frozen=True)
class Response:
    """What is rated.

    Attributes:
        ids: the response so far, in the base's ids.
        ended: whether it is whole; then it is read as the reward model reads whole responses.
        text: makes its text.
    """

    ids: Sequence[int]
    ended: bool
    text: Callable[[], str]


@dataclass
class UnderWay:
    """The responses to one prompt.

    Attributes:
        beginning: the prompt as the reward model reads it.
        rewards: of what the reward model has read, by its ids.
        rows: what is computed of responses; response number i has row number i.
        tokens: that the reward model computed for them.
        passes: of its weights that they had a part in.
    """

    beginning: Beginning
    rows: list[StreamRow] = field(default_factory=list)
    rewards: dict[tuple[int, ...], float] = field(default_factory=dict)
    tokens: int = 0
    passes: int = 0


Asked = Sequence[tuple[UnderWay, Sequence[Response]]]
"""Responses to rate, by prompt."""


class GrowingRewards:
    """Rates responses under way with a sequence classifier of one output.

    A model that cannot be read piece by piece (an encoder, recurrent layers) reads every response
    from its start: slow, and right.

    Args:
        load: loads the reward model, which has a scalar head.
        tokenizer: the base's, whose ids responses have.
        ends: ids at which the base ends a turn.
    """

    def __init__(
        self, load: Callable[[], RewardModel], tokenizer: Tokenizer, ends: Sequence[int]
    ) -> None:
        self._model = load()
        self._vocabulary = _vocabulary(self._model, tokenizer, ends)
        self._cache: PackedRows | None = None
        try:
            self._cache = open_rows(self._model)
        except NoPiecesError as why:
            folder = self._model.reader.folder
            logger.warning(
                "the reward model %s reads every response from its start: %s", folder, why
            )
            self._model = load()  # the other one's weights may have been rearranged

    def open(self, prompt: Prompt, most: int = 0) -> UnderWay:
        """Begin with a prompt.

        Args:
            prompt: what is answered.
            most: tokens that its responses may have.

        Raises:
            ConfigError: one that the reward model cannot read, or has no room for.
        """
        beginning = self._model.reader.beginning(prompt)
        if self._vocabulary:  # of another one the tokens are not known beforehand
            beginning.within([*beginning.ids, *[0] * most])
        return UnderWay(beginning)

    def close(self, under_way: UnderWay) -> None:
        """Forget all responses to a prompt."""
        if self._cache:
            for row in under_way.rows:
                self._cache.drop(row)
        under_way.rows.clear()

    @torch.no_grad()
    def rate(self, asked: Asked) -> list[list[float]]:
        """The rewards of some responses, by prompt, read together.

        Raises:
            ConfigError: one that the reward model cannot read.
        """
        if not any(ones for _, ones in asked):
            return [[] for _ in asked]
        read = [[self._ids(prompt.beginning, one) for one in ones] for prompt, ones in asked]
        keys = [[tuple(ids) for ids in sequences] for sequences in read]
        new = [
            [list(key) for key in dict.fromkeys(own) if key not in prompt.rewards]
            for (prompt, _), own in zip(asked, keys, strict=True)
        ]
        if any(new):
            self._rate_new(asked, new)
        return [
            [prompt.rewards[key] for key in own]
            for (prompt, _), own in zip(asked, keys, strict=True)
        ]

    def _rate_new(self, asked: Asked, new: Sequence[Sequence[list[int]]]) -> None:
        """Rate what was not rated before: what reads alike ties, whatever stood beside it."""
        rewards = iter(self._read(asked, new))
        for (prompt, _), sequences in zip(asked, new, strict=True):
            for ids in sequences:
                prompt.rewards[tuple(ids)] = next(rewards)

    def _read(self, asked: Asked, read: Sequence[Sequence[list[int]]]) -> list[float]:
        """The rewards of some sequences, in their order."""
        if self._cache is None:
            return self._rate_whole(asked, read)
        self._read_shared(self._cache, asked, read)
        entries, whose = [], []
        for (prompt, _), sequences in zip(asked, read, strict=True):
            entries += self._placed(self._cache, prompt, sequences)
            whose += [prompt] * len(sequences)
        return self._forward(self._cache, entries, whose)

    def _ids(self, beginning: Beginning, response: Response) -> list[int]:
        """What the reward model reads of a response; at least one token."""
        if self._vocabulary and not response.ended:
            ids = beginning.within([*beginning.ids, *own_ids(response.ids, self._vocabulary)])
        else:
            text = response.text()
            ids = beginning.whole(text) if response.ended else beginning.so_far(text)
        return self._model.up_to_padding(ids)

    # --- piece by piece --------------------------------------------------------------------------

    def _read_shared(
        self, cache: PackedRows, asked: Asked, read: Sequence[Sequence[list[int]]]
    ) -> None:
        """Read what all responses to a prompt begin with, where no row has it."""
        entries, whose = [], []
        for (prompt, _), sequences in zip(asked, read, strict=True):
            if len(sequences) < 2:
                continue
            shared = min(common_prefix(sequences[0], other) for other in sequences[1:])
            ids = sequences[0][:shared]
            row = max(prompt.rows, key=lambda row: _known(row, ids), default=None)
            if shared - (_known(row, ids) if row else 0) < BLOCK:
                continue
            if row is None:
                prompt.rows.append(row := new_row(cache))
            self._turn(cache, row, ids, _known(row, ids))
            entries.append(Entry(row, ids[row.computed :], 0))
            whose.append(prompt)
        self._forward(cache, entries, whose)

    def _placed(
        self, cache: PackedRows, prompt: UnderWay, sequences: Sequence[list[int]]
    ) -> list[Entry]:
        """Rows for some responses, each with all that any row has of it."""
        while len(prompt.rows) < len(sequences):
            prompt.rows.append(new_row(cache))
        moves, known = [], []
        for row, ids in zip(prompt.rows, sequences, strict=False):
            own = _known(row, ids[:-1])  # the last one's value is wanted
            source = max(prompt.rows, key=lambda other: _known(other, ids[:-1]))
            most = _known(source, ids[:-1])
            if most > own:
                moves.append(Move(source, row, own, most, len(ids)))
            known.append(most)
        cache.share(moves)
        for row, ids, computed in zip(prompt.rows, sequences, known, strict=False):
            self._turn(cache, row, ids, computed)
        return [
            Entry(row, ids[row.computed :], 1)
            for row, ids in zip(prompt.rows, sequences, strict=False)
        ]

    def _turn(self, cache: PackedRows, row: StreamRow, ids: list[int], computed: int) -> None:
        """Let a row be of another response, of which so much is computed."""
        row.sequence, row.computed = list(ids), computed
        cache.outgrown(row)

    def _forward(
        self, cache: PackedRows, entries: Sequence[Entry], whose: Sequence[UnderWay]
    ) -> list[float]:
        """The values that are wanted, in the order of the entries, in forwards of some tokens."""
        values: list[Tensor] = []
        for start, stop in _chunks(entries):
            some = entries[start:stop]
            found = cache.forward(some)
            values += found.flatten().unbind() if len(found) else []
            for prompt in {id(prompt): prompt for prompt in whose[start:stop]}.values():
                prompt.passes += 1
            for prompt, entry in zip(whose[start:stop], some, strict=True):
                prompt.tokens += len(entry.ids)
        return torch.stack(values).tolist() if values else []

    # --- from the start --------------------------------------------------------------------------

    def _rate_whole(self, asked: Asked, read: Sequence[Sequence[list[int]]]) -> list[float]:
        for (prompt, _), sequences in zip(asked, read, strict=True):
            prompt.tokens += sum(map(len, sequences))
            prompt.passes += 1
        return self._model.rate_rows([ids for sequences in read for ids in sequences])


def _known(row: StreamRow, ids: Sequence[int]) -> int:
    """How much of a sequence a row has computed."""
    return common_prefix(row.sequence[: row.computed], ids)


def _chunks(entries: Sequence[Entry]) -> Iterator[tuple[int, int]]:
    """Where to part some entries, so that no forward has many more tokens than it may."""
    start = tokens = 0
    for i, entry in enumerate(entries):
        if i > start and tokens + len(entry.ids) > CHUNK:
            yield start, i
            start, tokens = i, 0
        tokens += len(entry.ids)
    if entries:
        yield start, len(entries)


def _vocabulary(
    model: RewardModel, tokenizer: Tokenizer, ends: Sequence[int]
) -> VocabularyMap | None:
    """How the base's ids are the reward model's; None where their texts are read anew."""
    reader: Any = model.reader
    size = max(tokenizer.get_vocab().values()) + 1
    try:
        return match_vocabularies(
            tokenizer, reader.tokenizer, base_head=size, arm_head=reader.embedded, base_ends=ends
        )
    except VocabularyError:
        logger.warning(
            "the reward model %s has another vocabulary than the base: it reads the answers' text",
            reader.folder,
        )
        return None
