"""Which rows begin alike: found by the hash of their beginnings, without looking at every row."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

BLOCK = 8
"""Tokens of a beginning come in blocks of so many."""

T = TypeVar("T")


def block_keys(seed: Hashable, ids: Sequence[int], known: Sequence[int] = ()) -> Iterator[int]:
    """A key for the first block of `ids`, for the first two, and so on.

    Args:
        seed: beginnings are alike only under equal seeds.
        ids: a part of a block at the end has no key.
        known: the first of these keys, which are not made again.
    """
    key = known[-1] if known else hash(seed)
    for end in range((len(known) + 1) * BLOCK, len(ids) + 1, BLOCK):
        key = hash((key, *ids[end - BLOCK : end]))
        yield key


class PrefixIndex(Generic[T]):
    """Beginnings, by the key of each block -> who has it (the latest to say so)."""

    def __init__(self) -> None:
        self._holders: dict[int, T] = {}

    def add(self, keys: Sequence[int], holder: T) -> None:
        """Somebody has the beginnings with these keys."""
        self._holders.update(dict.fromkeys(keys, holder))

    def remove(self, keys: Sequence[int], holder: T) -> None:
        """Somebody has them no more."""
        for key in keys:
            if self._holders.get(key) is holder:
                del self._holders[key]

    def find(self, seed: Hashable, ids: Sequence[int]) -> T | None:
        """Who has the longest beginning of `ids`; its tokens have still to be compared."""
        best = None
        for key in block_keys(seed, ids):
            if (holder := self._holders.get(key)) is None:
                return best
            best = holder
        return best
