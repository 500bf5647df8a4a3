"""The rows of a group on shelves: any of them in one forward, packed without padding.

M new tokens of all rows, J coefficients of the adapters, H hidden size.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial

import torch
from torch import Tensor

from trimtab.engines.local import attention
from trimtab.engines.local.cache import PackedCache, Sees, Span, places
from trimtab.engines.local.graphs import graphs_of
from trimtab.engines.local.group_cache import Entry, Head, log_probs
from trimtab.engines.local.prefixes import BLOCK, PrefixIndex, block_keys
from trimtab.engines.local.shelves import SHORTEST, CacheMemory, Move, Shelves, slot_length
from trimtab.engines.local.stream_rows import StreamRow, common_prefix
from trimtab.engines.local.streams import Group
from trimtab.engines.local.transfer import on_device
from trimtab.models.renamed import cache_name


class PackedRows:
    """The rows of one group (`GroupCache`).

    Args:
        group: its streams.
        memory: for keys and values, shared by all groups.
        head: what is made of the hidden states that are wanted.
    """

    can_rewind = True

    def __init__(self, group: Group, memory: CacheMemory, head: Head = log_probs) -> None:
        self.group, self._head = group, head
        self._config = group.lm.config.get_text_config()
        self._kinds = attention.kinds_of(self._config)
        self._window = getattr(self._config, "sliding_window", None)
        self._dtype = _cache_type(group)
        self._graphs = graphs_of(group.model)
        self._shelves = Shelves(CacheMemory(), 0, self._forget)
        self._beginnings: PrefixIndex[StreamRow] = PrefixIndex()
        if not group.position_size:
            group.position_size = self._measured()
        self._shelves = Shelves(memory, row_bytes(group, 1) // SHORTEST, self._forget)

    @torch.no_grad()
    def _measured(self) -> int:
        """Numbers that the keys and values of one token come to, in all layers: by reading one."""
        coefficients = tuple(self.group.coefficients()[0].tolist())
        row = StreamRow(0, [0], self.group.streams[0].vocabulary, coefficients)
        self._shelves.hold(row, 1)
        self._forward([Entry(row, [0], 0)])
        return self._shelves.size(row)

    def forward(self, entries: Sequence[Entry], positions: int = 1) -> Tensor:
        """As `GroupCache.forward`."""
        for entry in entries:  # for all of a prompt at once: it moves no more while it is read
            row = entry.row
            self._shelves.hold(row, max(row.computed + len(entry.ids), len(row.sequence)))
        packed = sorted(entries, key=lambda entry: entry.row.place or ())
        starts, hidden_MH = self._forward(packed)
        for entry in packed:
            self._note(entry)
        wanted = [entry for entry in entries if entry.wanted]
        if not wanted:
            return hidden_MH.new_empty(0)
        at = [_last(starts[id(e.row)], len(e.ids), e.wanted, positions) for e in wanted]
        return self._head(self.group, hidden_MH, [entry.row for entry in wanted], at)

    def _forward(self, packed: Sequence[Entry]) -> tuple[dict[int, int], Tensor]:
        """Where each row's tokens begin among the M, and the hidden states of all, [M, H]."""
        ids: list[int] = []
        positions: list[int] = []
        starts: dict[int, int] = {}
        spans: list[Span] = []
        for entry in packed:
            row, count = entry.row, len(entry.ids)
            assert row.place is not None
            length, slot = row.place
            spans.append(Span(self._shelves[length], slot, row.computed, count))
            starts[id(row)] = len(ids)
            ids += entry.ids
            positions += range(row.computed, row.computed + count)
        long = [e.row.long for e in packed for _ in e.ids]
        numbers_3M = on_device([ids, positions, places(spans)], self.group.device)
        coefficients = [e.row.coefficients for e in packed for _ in e.ids]
        coefficients_MJ = on_device(coefficients, self.group.device)
        decodes = len(ids) == len(packed) and not any(long)
        graphs = self._graphs if decodes else None
        run = partial(self._run, spans, long, all_stored=graphs is not None)
        if graphs is None:
            return starts, run(numbers_3M, coefficients_MJ)
        layout = tuple((s.shelf.length, s.shelf.version, s.slot) for s in spans)
        return starts, graphs.run(layout, run, [numbers_3M, coefficients_MJ])

    def _run(
        self,
        spans: Sequence[Span],
        long: Sequence[bool],
        numbers_3M: Tensor,
        coefficients_MJ: Tensor,
        *,
        all_stored: bool,
    ) -> Tensor:
        """One pass over M tokens: their ids, positions and places. [M, H]."""
        ids_M, positions_M, at_M = numbers_3M
        sees = Sees(self._kinds, self._window, all_stored)
        cache = PackedCache(spans, sees, positions_M, at_M, self._dtype)
        self.group.open_rows(coefficients_MJ)
        if self.group.ropes:
            self.group.ropes.open(long)
        hidden: Tensor = self.group.lm.base_model(
            input_ids=ids_M[None],
            position_ids=positions_M[None],
            attention_mask=cache.sights(),
            use_cache=True,
            **{cache_name(self.group.parameters): cache},
        ).last_hidden_state
        return hidden[0]

    def _note(self, entry: Entry) -> None:
        """A row has computed its tokens: others may find what it has of its sequence."""
        row = entry.row
        row.computed += len(entry.ids)
        whole = min(row.computed, len(row.sequence)) // BLOCK
        if whole > len(row.registered):
            ids = row.sequence[: whole * BLOCK]
            row.registered += block_keys(_seed(row), ids, row.registered)
            self._beginnings.add(row.registered, row)

    def _forget(self, row: StreamRow) -> None:
        self._beginnings.remove(row.registered, row)
        row.registered = []

    def outgrown(self, row: StreamRow) -> bool:
        """As `GroupCache.outgrown`."""
        ropes = self.group.ropes
        if ropes is None or (len(row.sequence) > ropes.original) == row.long:
            return False
        self._forget(row)
        row.long, row.computed = not row.long, 0
        return True

    def room(self, row: StreamRow) -> int | None:
        """As `GroupCache.room`."""
        if not self.group.ropes:
            return None
        left = self.group.ropes.original - len(row.sequence)
        return left if left >= 0 else None

    def rewind(self, row: StreamRow, length: int) -> None:
        """As `GroupCache.rewind`."""
        row.computed = min(row.computed, length)

    def expect(self, row: StreamRow) -> None:
        """As `GroupCache.expect`."""
        found = self._beginnings.find(_seed(row), row.sequence[:-1])
        if found is not None:
            self._shelves.touch(found)

    def reuse_prefix(self, row: StreamRow) -> None:
        """As `GroupCache.reuse_prefix`. The last id is always left, as its successor is wanted."""
        ids = row.sequence[:-1]
        found = self._beginnings.find(_seed(row), ids)
        if found is None or found.place is None or row.place is not None:
            return
        length = common_prefix(found.sequence[: found.computed], ids)
        if length < BLOCK:
            return
        if not self._shelves.runs(found):
            self._shelves.take_over(row, found)
            kept = found.registered[: length // BLOCK]
            self._forget(found)
            row.registered = kept  # others that begin so find it here
            self._beginnings.add(kept, row)
        else:
            self._shelves.hold(row, len(row.sequence))
            self._shelves.copy(found, row, length)
        row.computed = length

    def share(self, moves: Sequence[Move]) -> None:
        """Let rows have what others have computed, all at once."""
        for move in moves:
            self._shelves.hold(move.target, move.room)
        self._shelves.share(moves)

    def release(self, row: StreamRow) -> None:
        """As `GroupCache.release`."""
        self._shelves.release(row)

    def drop(self, row: StreamRow) -> None:
        """As `GroupCache.drop`."""
        self._shelves.drop(row)
        self._forget(row)
        row.computed = 0

    def shrink(self) -> None:
        """As `GroupCache.shrink`."""
        self._shelves.shrink()


def _cache_type(group: Group) -> torch.dtype:
    """On a CPU attention over half-precision keys takes several times as long as over float32."""
    dtype: torch.dtype = torch.float32 if group.device.type == "cpu" else group.lm.dtype
    return dtype


def row_bytes(group: Group, tokens: int) -> int:
    """What the keys and values of one row of a group come to; 0 where that is not known."""
    return group.position_size * _cache_type(group).itemsize * slot_length(tokens)


def _seed(row: StreamRow) -> Hashable:
    """What is computed of a beginning is the same only under equal ones."""
    return row.stream, row.coefficients, row.long


def _last(start: int, count: int, wanted: int, positions: int) -> list[int]:
    """Places of a row's last wanted tokens; the list is filled up to so many positions."""
    first, last = start + max(count - wanted, 0), start + count - 1
    return [min(first + m, last) for m in range(positions)]
