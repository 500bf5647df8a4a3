"""What a group has computed of the rows that run, however its architecture keeps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.stream_rows import StreamRow
from trimtab.engines.local.streams import Group
from trimtab.engines.local.transfer import on_device
from trimtab.models.lm_head import head_logits
from trimtab.models.vocabulary import VocabularyMap


@dataclass(frozen=True)
class Entry:
    """What one row reads in a forward.

    Attributes:
        row: which.
        ids: its own next tokens; at least one.
        wanted: of how many of them, the last ones, the successor's log-probs are wanted.
    """

    row: StreamRow
    ids: Sequence[int]
    wanted: int


Head = Callable[[Group, Tensor, Sequence[StreamRow], Sequence[Sequence[int]]], Tensor]
"""As `log_probs`: what is made of the hidden states of some rows, [E, M, …]."""


class GroupCache(Protocol):
    """`PackedRows`, or `OwnCaches` for architectures that cannot share shelves."""

    @property
    def can_rewind(self) -> bool:
        """Whether tokens can be taken back, and several be computed at once at any time."""

    @property
    def group(self) -> Group:
        """Its streams."""

    def forward(self, entries: Sequence[Entry], positions: int = 1) -> Tensor:
        """Compute the tokens of some rows.

        Args:
            entries: one per row.
            positions: M, at least what any entry wants.

        Returns:
            Log-probs over the base's ids of those entries that want some, in their order,
            [E, M, V]; behind an entry's own count they mean nothing.
        """

    def outgrown(self, row: StreamRow) -> bool:
        """Whether a row's sequence is now of a length that changes what was computed of it.

        Then nothing of it is computed. Called whenever the sequence has grown.
        """

    def room(self, row: StreamRow) -> int | None:
        """Tokens that may follow before a row is outgrown; None without a limit."""

    def rewind(self, row: StreamRow, length: int) -> None:
        """Forget what was computed of a row beyond a length."""

    def expect(self, row: StreamRow) -> None:
        """A new row comes soon: what it could take over is the last to be given up."""

    def reuse_prefix(self, row: StreamRow) -> None:
        """Let a new row take over the longest beginning of it that was ever computed, if any."""

    def release(self, row: StreamRow) -> None:
        """A row has ended; what was computed of it may be reused."""

    def drop(self, row: StreamRow) -> None:
        """Forget a row."""

    def shrink(self) -> None:
        """Give up memory that no running row needs."""


def log_probs(
    group: Group, hidden_MH: Tensor, rows: Sequence[StreamRow], at: Sequence[Sequence[int]]
) -> Tensor:
    """One product with the LM head, and log-probs over the base's ids, [E, M, V].

    Args:
        group: its streams.
        hidden_MH: last hidden states of packed tokens.
        rows: whose log-probs are wanted, E.
        at: per row, the places of M positions among the tokens.
    """
    index_EM = on_device(at, hidden_MH.device)
    if group.head_is_adapted:
        coefficients = [row.coefficients for row in rows for _ in at[0]]
        group.open_rows(on_device(coefficients, hidden_MH.device))
    logits_EMV = head_logits(group.lm, hidden_MH[index_EM])
    maps = [row.vocabulary for row in rows]
    if all(vocabulary == maps[0] for vocabulary in maps):
        return _own_to_base(logits_EMV, maps[0])
    return torch.cat(
        [_own_to_base(logits_EMV[i : i + 1], vocabulary) for i, vocabulary in enumerate(maps)]
    )


def _own_to_base(logits_BV: Tensor, vocabulary: VocabularyMap) -> Tensor:
    return to_base(fusion.log_softmax(logits_BV, vocabulary.own_size), vocabulary)


def to_base(logp_BV: Tensor, vocabulary: VocabularyMap) -> Tensor:
    """A stream's log-probs over its own ids, rearranged to the base's ids."""
    if vocabulary.is_identity:
        return logp_BV
    missing = vocabulary.size - logp_BV.shape[-1]
    if missing > 0:
        logp_base_BV = torch.nn.functional.pad(logp_BV, (0, missing), value=fusion.NEVER)
    else:
        logp_base_BV = logp_BV[..., : vocabulary.size].clone()
    for base_id, own_id in vocabulary.own_id:
        logp_base_BV[..., base_id] = logp_BV[..., own_id]
    return logp_base_BV
