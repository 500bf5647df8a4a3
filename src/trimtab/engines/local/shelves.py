"""Where keys and values lie: shelves of slots of one length each, within a budget of bytes.

A shelf holds [slots, L, H, D] per layer, written in place. A row begins on a short shelf and moves
to the next one, twice as long, when it outgrows it: one long request sizes nobody else's slot. What
a row that has ended leaves in its slot stays there until the slot is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trimtab.engines.local.stream_rows import StreamRow
from trimtab.errors import TrimtabError, is_out_of_memory

SHORTEST = 64
"""Tokens of the shortest shelf's slots."""


class CacheFullError(TrimtabError, MemoryError):
    """The budget for keys and values is spent."""


@dataclass
class CacheMemory:
    """Bytes that the shelves of all groups may take together.

    Attributes:
        budget: bytes; None for no limit.
        used: bytes taken.
    """

    budget: int | None = None
    used: int = 0

    def room(self) -> float:
        """Bytes that are left."""
        return float("inf") if self.budget is None else self.budget - self.used


@dataclass(frozen=True)
class Move:
    """What one row takes over of another.

    Attributes:
        source: has computed it.
        target: has computed the same up to `start`.
        start: the first token.
        stop: behind the last one.
        room: tokens that the target will come to.
    """

    source: StreamRow
    target: StreamRow
    start: int
    stop: int
    room: int


@dataclass
class Shelf:
    """Slots of one length.

    Attributes:
        length: L, tokens of a slot.
        holders: per slot, the row that it holds or held last.
        ended: per slot, when that row ended, as a count; −1 for an empty slot, None while it runs.
        keys: per layer, [slots, L, H, D]; more slots where memory ran out while they were resized.
        values: per layer, likewise.
        version: counts how often they have been allocated.
    """

    length: int
    holders: list[StreamRow | None] = field(default_factory=list)
    ended: list[int | None] = field(default_factory=list)
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    version: int = 0

    def free_slot(self) -> int | None:
        """An empty slot, or else the one whose row ended first; None if all run."""
        free = [(when, slot) for slot, when in enumerate(self.ended) if when is not None]
        return min(free)[1] if free else None

    def grow(self, more: int) -> None:
        """Have so many slots more, empty ones."""
        self.version += 1
        slots = len(self.holders)
        for stored in (self.keys, self.values):
            for layer, old in stored.items():
                stored[layer] = old.new_zeros((slots + more, *old.shape[1:]))
                stored[layer][:slots] = old[:slots]
        self.holders += [None] * more
        self.ended += [-1] * more

    def keep(self, slots: Sequence[int]) -> None:
        """Have no other slots than these, in their order.

        Called when memory is short, so contents move in place; what is left over is given up only
        where there is room to copy the rest.
        """
        self.version += 1
        for stored in (self.keys, self.values):
            for tensor in stored.values():
                for new, old in enumerate(slots):
                    if new != old:
                        tensor[new] = tensor[old]
        self.holders = [self.holders[slot] for slot in slots]
        self.ended = [self.ended[slot] for slot in slots]
        for slot, row in enumerate(self.holders):
            if row is not None:
                row.place = (self.length, slot)
        try:
            for stored in (self.keys, self.values):
                for layer, tensor in stored.items():
                    stored[layer] = tensor[: len(slots)].clone()
        except Exception as error:
            if not is_out_of_memory(error):
                raise

    def layer(self, layer: int, key: Tensor, value: Tensor, dtype: torch.dtype) -> None:
        """Make a layer's tensors like new keys and values [1, H, M, D], if it has none yet."""
        for stored, like in ((self.keys, key), (self.values, value)):
            if layer not in stored:
                # zeros: a masked position has weight 0, and 0 times garbage could be NaN
                shape = (len(self.holders), self.length, like.shape[1], like.shape[3])
                stored[layer] = like.new_zeros(shape, dtype=dtype)

    def copy(self, slot: int, source: Shelf, source_slot: int, length: int) -> None:
        """Make the first positions of a slot those of another one, perhaps of another shelf."""
        for mine, theirs in ((self.keys, source.keys), (self.values, source.values)):
            for layer, stored in theirs.items():
                self._like(mine, layer, stored)[slot, :length] = stored[source_slot, :length]

    def _like(self, mine: dict[int, Tensor], layer: int, stored: Tensor) -> Tensor:
        """A layer's own tensor, made like another shelf's if there is none."""
        if layer not in mine:
            mine[layer] = stored.new_zeros((len(self.holders), self.length, *stored.shape[2:]))
        return mine[layer]

    def places(self, slot: int, start: int, stop: int) -> range:
        """Of some positions of a slot, where all slots lie one after the other."""
        return range(slot * self.length + start, slot * self.length + stop)

    def take(self, places: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values at some places, per layer."""
        return [
            (_flat(keys)[places], _flat(self.values[layer])[places])
            for layer, keys in self.keys.items()
        ]

    def put(self, places: Tensor, taken: list[tuple[Tensor, Tensor]], source: Shelf) -> None:
        """Write what was taken of another shelf, or of this one."""
        for layer, pair in zip(source.keys, taken, strict=True):
            for mine, theirs, new in zip(
                (self.keys, self.values), (source.keys, source.values), pair, strict=True
            ):
                _flat(self._like(mine, layer, theirs[layer])).index_copy_(0, places, new)


class Shelves:
    """The shelves of one group.

    Args:
        memory: shared by all groups.
        position_bytes: that one token of one row takes, in all layers.
        forget: is told of every row that has ended and loses its slot.
    """

    def __init__(
        self, memory: CacheMemory, position_bytes: int, forget: Callable[[StreamRow], None]
    ) -> None:
        self._memory, self._position_bytes, self._lost = memory, position_bytes, forget
        self.by_length: dict[int, Shelf] = {}
        self._ends = 0

    def __getitem__(self, length: int) -> Shelf:
        return self.by_length[length]

    def hold(self, row: StreamRow, tokens: int) -> None:
        """Give a row a slot for so many tokens; what it has computed moves with it.

        Raises:
            CacheFullError: the row is as it was.
        """
        if row.place and self.runs(row) and row.place[0] >= tokens:
            return
        length = slot_length(tokens)
        shelf = self.by_length.setdefault(length, Shelf(length))
        if (slot := shelf.free_slot()) is None:
            self._grow(shelf)
            slot = shelf.free_slot()
            assert slot is not None
        if (held := shelf.holders[slot]) is not None:
            self._forget(held)
        if row.place and row.computed:
            old, at = row.place
            shelf.copy(slot, self.by_length[old], at, row.computed)
        self.drop(row)
        shelf.holders[slot], shelf.ended[slot] = row, None
        row.place = (length, slot)

    def _forget(self, ended: StreamRow) -> None:
        ended.place = None
        self._lost(ended)

    def runs(self, row: StreamRow) -> bool:
        """Whether a row that lies here has not ended."""
        assert row.place is not None
        length, slot = row.place
        return self.by_length[length].ended[slot] is None

    def _grow(self, shelf: Shelf) -> None:
        """More slots: twice as many if there is room, or else one; ended rows make room."""
        each, more = shelf.length * self._position_bytes, max(len(shelf.holders), 1)
        if self._memory.room() < more * each:
            more = max(1, min(more, int(max(self._memory.room(), 0) // each)))
        if self._memory.room() < more * each:
            self.shrink(except_for=shelf)
        if self._memory.room() < more * each:
            whole, left = self._memory.budget or 0, self._memory.room()
            raise CacheFullError(
                f"a slot of {shelf.length} tokens takes {each / 1e6:.1f} MB, and of the cache's "
                f"{whole / 1e6:.1f} MB only {left / 1e6:.1f} are left",
                "give it more (--cache-memory)",
            )
        shelf.grow(more)
        self._memory.used += more * each

    def shrink(self, except_for: Shelf | None = None) -> None:
        """Give up what no running row needs."""
        for shelf in self.by_length.values():
            kept = [slot for slot, when in enumerate(shelf.ended) if when is None]
            gone = len(shelf.holders) - len(kept)
            if shelf is except_for or not gone:
                continue
            for row in shelf.holders:
                if row is not None and not self.runs(row):
                    self._forget(row)
            shelf.keep(kept)
            self._memory.used -= gone * shelf.length * self._position_bytes

    def release(self, row: StreamRow) -> None:
        """Its row has ended; what it computed can be found again until the slot is needed."""
        if row.place:
            length, slot = row.place
            self._ends += 1
            self.by_length[length].ended[slot] = self._ends

    def touch(self, row: StreamRow) -> None:
        """If its row has ended, it is the latest to have done so."""
        if row.place and not self.runs(row):
            self.release(row)

    def drop(self, row: StreamRow) -> None:
        """Forget what a row computed."""
        if row.place:
            length, slot = row.place
            shelf = self.by_length[length]
            shelf.holders[slot], shelf.ended[slot] = None, -1
            row.place = None

    def copy(self, source: StreamRow, target: StreamRow, length: int) -> None:
        """Make the first tokens of one row those of another."""
        assert source.place is not None and target.place is not None
        (here, slot), (there, source_slot) = target.place, source.place
        self[here].copy(slot, self[there], source_slot, length)

    def share(self, moves: Sequence[Move]) -> None:
        """Copy what rows take over; all is read before anything is written.

        Args:
            moves: the targets have slots already.
        """
        by_shelves: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
        for move in moves:
            assert move.source.place is not None and move.target.place is not None
            (there, source), (here, target) = move.source.place, move.target.place
            sources, targets = by_shelves.setdefault((there, here), ([], []))
            sources += self[there].places(source, move.start, move.stop)
            targets += self[here].places(target, move.start, move.stop)
        taken = []
        for (there, here), (sources, targets) in by_shelves.items():
            device = next(iter(self[there].keys.values())).device
            pair = self[there].take(torch.tensor(sources, device=device))
            taken.append((self[here], torch.tensor(targets, device=device), pair, self[there]))
        for shelf, places, pair, source_shelf in taken:
            shelf.put(places, pair, source_shelf)

    def size(self, row: StreamRow) -> int:
        """Numbers that one of its tokens comes to."""
        assert row.place is not None
        shelf = self[row.place[0]]
        stored = [*shelf.keys.values(), *shelf.values.values()]
        return sum(layer[0, 0].numel() for layer in stored)

    def take_over(self, row: StreamRow, ended: StreamRow) -> None:
        """Let a row go on in the slot of one that has ended."""
        assert ended.place is not None
        length, slot = ended.place
        shelf = self.by_length[length]
        shelf.holders[slot], shelf.ended[slot] = row, None
        row.place, ended.place = ended.place, None


def _flat(stored: Tensor) -> Tensor:
    return stored.view(-1, *stored.shape[2:])


def slot_length(tokens: int) -> int:
    """Of the shelf for so many tokens."""
    return max(SHORTEST, 1 << (tokens - 1).bit_length())
