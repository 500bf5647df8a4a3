"""What a group has computed of the requests in its slots, however its architecture keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from trimtab.engines.local.own_caches import OwnCaches
from trimtab.engines.local.slots import SlotCaches, Tokens
from trimtab.engines.local.streams import Group


class GroupCache(Protocol):
    """`SlotCaches`, or `OwnCaches` for architectures that cannot share one cache."""

    @property
    def can_rewind(self) -> bool:
        """Whether tokens can be taken back, and several be computed at once at any time."""

    @property
    def group(self) -> Group:
        """Its streams."""

    @property
    def computed(self) -> list[list[int]]:
        """Per slot and stream, how many of its tokens have been through the model."""

    def condition(self, slot: int, conditions: Mapping[str, Sequence[float]]) -> None:
        """Set the preferences inside the conditioned ARMs of the request in a slot."""

    def outgrown(self, slot: int, sequences: Sequence[Sequence[int]]) -> bool:
        """Whether a stream's sequence is now of a length that changes what was computed of it."""

    def room(self, sequences: Sequence[Sequence[int]]) -> int | None:
        """Tokens that may follow before a stream is outgrown; None without a limit."""

    def forward(
        self, first: int, tokens: Tokens, wanted: Sequence[int], *, positions: int | None = None
    ) -> dict[str, Tensor]:
        """Append tokens to some slots' streams; log-probs of what may follow, [slots, M, V]."""

    def pending(
        self, slot: int, sequences: Sequence[Sequence[int]], drafts: Sequence[int] = ()
    ) -> list[list[int]]:
        """What of each stream's sequence, and of drafts after it, is not computed yet."""

    def rewind(self, slot: int, lengths: Sequence[int]) -> None:
        """Forget what a slot's streams computed beyond these lengths."""

    def reuse_prefix(self, slot: int, stream: int, ids: Sequence[int]) -> None:
        """Let an empty stream take over the longest beginning of `ids` that any slot still has."""

    def move(self, source: int, target: int) -> None:
        """Continue a request in another slot."""

    def clear(self, slot: int) -> None:
        """Empty a slot."""


def open_cache(group: Group, slots: int, length: int) -> GroupCache:
    """The fastest way that a group's architecture can be run."""
    return (SlotCaches if group.in_slots else OwnCaches)(group, slots, length)
