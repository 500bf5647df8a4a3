"""Continuous batching: requests wait in a queue, run in slots, and leave when they are done.

Each step reads one chunk of some prompts, then decodes one round for every request that is ready.
What a stream has still to read is its sequence beyond what its slot has read: a prompt, the last
token, tokens that a gate passed over, or drafts to be verified are all the same to a group.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.choosing import Fused, Settings, fuse, gated, uniforms
from trimtab.engines.local.drafting import Draft
from trimtab.engines.local.open_slots import open_slots
from trimtab.engines.local.reports import record
from trimtab.engines.local.rows import Row, RowPlan
from trimtab.engines.local.slots import common_prefix
from trimtab.engines.local.streams import BASE, DRAFT, Group
from trimtab.engines.speculation import ACCEPT_LANE, DraftLength, verify
from trimtab.engines.types import Chunk
from trimtab.errors import ConfigError, is_out_of_memory

logger = logging.getLogger(__name__)

CHUNK = 512
"""Prompt tokens (over all requests) that are read between two decoding rounds."""
WORTH_WAITING = 32
"""Shared prompt tokens for which a request lets another one read first."""


@dataclass(frozen=True)
class Fleet:
    """What a scheduler runs.

    Attributes:
        groups: the base's first.
        arms: names of the ARMs, in the order of the weights.
        tokenizer: the base's.
        ends: ids that end a turn.
    """

    groups: Sequence[Group]
    arms: Sequence[str]
    tokenizer: Any
    ends: frozenset[int]


@dataclass(frozen=True)
class Speculation:
    """How to speculate.

    Attributes:
        drafter: who proposes tokens.
        length: makes the controller of one row's draft length.
    """

    drafter: Any
    length: Callable[[], DraftLength]


class Scheduler:
    """Runs requests in slots.

    Args:
        fleet: the models.
        slots: requests decoded together.
        length: tokens a request may have, prompt and response.
        report: keep a report of every token.
        speculation: draft and verify; None decodes token by token.

    Attributes:
        waiting: requests that have no slot yet.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        slots: int,
        length: int,
        report: bool = False,
        speculation: Speculation | None = None,
    ) -> None:
        self._fleet, self._length = fleet, length
        self._report, self._speculation = report, speculation
        self._device = fleet.groups[0].device
        self.waiting: deque[Row] = deque()
        self._keys = 0
        self._resize(slots)

    def _resize(self, slots: int) -> None:
        """Start with empty slots; requests that were running read everything again."""
        self._slots: list[Row | None] = [None] * slots
        self._states = [open_slots(group, slots, self._length) for group in self._fleet.groups]
        self._settings: Settings | None = None

    @property
    def busy(self) -> bool:
        """Whether any request is running or waiting."""
        return bool(self.waiting) or any(self._slots)

    def add(self, plan: RowPlan) -> int:
        """Queue a request; returns the key that its chunks will carry.

        Raises:
            ConfigError: it can come to more tokens than a slot holds.
        """
        if plan.length > self._length:
            raise ConfigError(
                f"the request can come to {plan.length} tokens, but a slot holds {self._length}",
                "shorten the prompt, or lower max_new_tokens",
            )
        drafts = self._speculation.length() if self._speculation else DraftLength(0, 0, 0, 0)
        fleet = self._fleet
        self.waiting.append(Row(self._keys, plan, fleet.groups, fleet.tokenizer, drafts))
        self._keys += 1
        return self._keys - 1

    def cancel(self, key: int) -> None:
        """Forget a request, running or waiting; its slot is free at once."""
        self.waiting = deque(row for row in self.waiting if row.key != key)
        for slot, row in enumerate(self._slots):
            if row and row.key == key:
                self._free(slot)

    def step(self) -> list[tuple[int, Chunk]]:
        """Read a chunk of prompts and decode one round: (key, text that was released)."""
        plain = not any(group.quantized for group in self._fleet.groups)
        with torch.inference_mode(plain), torch.no_grad():  # some kernels bear no inference mode
            return self._step()

    def _step(self) -> list[tuple[int, Chunk]]:
        chunks: list[tuple[int, Chunk]] = []
        try:
            self._admit()
            chunks += self._prefill()
            if any(row and not row.prefilling for row in self._slots):
                chunks += self._decode()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._split()
        self._compact()
        return chunks

    # --- slots ---------------------------------------------------------------------------------

    def _admit(self) -> None:
        for slot, row in enumerate(self._slots):
            if row is None and self.waiting:
                new = self._slots[slot] = self.waiting.popleft()
                self._settings = None
                new.prefilling = True
                new.awaits = self._leader(slot, new)
                if new.awaits is None:
                    self._recall(slot, new)

    def _leader(self, slot: int, new: Row) -> tuple[Row, int] | None:
        """A request that is about to read the same beginning."""
        shared = [
            (common_prefix(row.sequences[0][0], new.sequences[0][0][:-1]), row)
            for other, row in enumerate(self._slots)
            if row and row.prefilling and other != slot and self._states[0].can_rewind
        ]
        length, leader = max(shared, key=lambda pair: pair[0], default=(0, None))
        return (leader, length) if leader and length >= WORTH_WAITING else None

    def _recall(self, slot: int, row: Row) -> None:
        for state, sequences in zip(self._states, row.sequences, strict=True):
            for stream, sequence in enumerate(sequences):
                state.recall(slot, stream, sequence)

    def _free(self, slot: int) -> None:
        self._slots[slot] = self._settings = None
        for state in self._states:
            state.clear(slot)

    def _compact(self) -> None:
        """Once nothing waits, keep the running requests in the first slots."""
        while not self.waiting and None in self._slots[: self._used]:
            source, target = self._used - 1, self._slots.index(None)
            self._slots[target], self._slots[source] = self._slots[source], None
            self._settings = None
            for state in self._states:
                state.move(source, target)

    @property
    def _used(self) -> int:
        """Slots up to the last one that is taken."""
        return max((i + 1 for i, row in enumerate(self._slots) if row), default=0)

    def _split(self) -> None:
        """Out of memory: go on with half the slots; the requests lose no token."""
        running = [row for row in self._slots if row]
        slots = len(self._slots) // 2
        if slots == 0:
            raise ConfigError(
                f"out of memory on a single request of up to {self._length} tokens",
                "use shorter requests, a smaller dtype or a smaller model",
            )
        logger.warning("out of memory with %d slots: going on with %d", len(self._slots), slots)
        self._states = []  # let the old caches go before new ones are made
        self.waiting.extendleft(reversed(running))
        self._resize(slots)

    # --- prompts -------------------------------------------------------------------------------

    def _prefill(self) -> list[tuple[int, Chunk]]:
        """Read one chunk of the first prompts that are unread; they decode when all is read."""
        span = self._prefilling()
        if not span:
            return []
        first, count = span.start, len(span)
        pending = [self._pending(slot) for slot in span]
        width = min(max(pending), max(CHUNK // count, 1))
        if not all(state.can_rewind for state in self._states):
            width = max(pending)  # after a state, recurrent layers go on token by token
        done = [n <= width for n in pending]
        logps: dict[str, Tensor] = {}
        for g, state in enumerate(self._states):
            tokens = [self._chunk(g, slot, width, go) for slot, go in zip(span, done, strict=True)]
            logps |= state.read(first, tokens, [int(go) for go in done])
        if not any(done):
            return []
        rows = [self._slots[slot] if go else None for slot, go in zip(span, done, strict=True)]
        for row in rows:
            if row:
                row.prefilling = False
        settings = self._all_settings().rows(first, count)
        return self._plain(first, rows, fuse(settings, logps, self._fleet.arms), settings)

    def _prefilling(self) -> range:
        """The first slots in a row that have a prompt to read."""
        for slot, row in enumerate(self._slots):
            if row and row.awaits and self._has_read(*row.awaits):
                row.awaits = None
                self._recall(slot, row)
        reads = [bool(row and row.prefilling and not row.awaits) for row in self._slots]
        if True not in reads:
            return range(0)
        first = reads.index(True)
        last = reads.index(False, first) if False in reads[first:] else len(reads)
        return range(first, min(last, first + CHUNK))

    def _has_read(self, leader: Row, length: int) -> bool:
        slot = next((i for i, row in enumerate(self._slots) if row is leader), None)
        if slot is None or not leader.prefilling:
            return True
        return all(min(state.read_so_far[slot]) >= length for state in self._states)

    def _pending(self, slot: int) -> int:
        row = self._slots[slot]
        assert row is not None
        unread: list[int] = [
            len(sequence) - n
            for state, sequences in zip(self._states, row.sequences, strict=True)
            for sequence, n in zip(sequences, state.read_so_far[slot], strict=True)
        ]
        return max(unread)

    def _chunk(self, g: int, slot: int, width: int, done: bool) -> list[list[int]]:
        """What a slot's streams read of their prompts now; the last token waits for all."""
        row = self._slots[slot]
        assert row is not None
        tokens: list[list[int]] = self._states[g].unread(slot, row.sequences[g])
        return tokens if done else [ids[: min(width, len(ids) - 1)] for ids in tokens]

    # --- rounds --------------------------------------------------------------------------------

    def _decode(self) -> list[tuple[int, Chunk]]:
        """One round for every request that is ready."""
        used = self._used
        rows = [row if row and not row.prefilling else None for row in self._slots[:used]]
        settings = self._all_settings().rows(0, used)
        draft = self._draft(rows, settings)
        positions = 1 + max(map(len, draft.tokens))
        logps = self._read(rows, draft, settings, positions)
        repeated = settings.rows(0, used, positions) if positions > 1 else settings
        fused = fuse(repeated, logps, self._fleet.arms)
        if positions == 1:
            return self._plain(0, rows, fused, settings)
        return self._verified(rows, draft, fused, settings)

    def _draft(self, rows: Sequence[Row | None], settings: Settings) -> Draft:
        lengths = [
            min(row.drafts.best(), row.sampling.max_new_tokens - len(row.ids) - 1) if row else 0
            for row in rows
        ]
        if self._speculation is None or not any(lengths):
            return Draft([[] for _ in rows])
        draft: Draft = self._speculation.drafter.propose(rows, lengths, settings, self._states)
        return draft

    def _read(
        self, rows: Sequence[Row | None], draft: Draft, settings: Settings, positions: int
    ) -> dict[str, Tensor]:
        """Every stream's log-probs after its last token and after each draft, [B, M, V]."""
        tails = [1 + len(ids) if row else 0 for row, ids in zip(rows, draft.tokens, strict=True)]
        logps = dict(draft.logps)
        asked = [bool(row) for row in rows]
        for g, (group, state) in enumerate(zip(self._fleet.groups, self._states, strict=True)):
            if group.index.keys() == {DRAFT} or not any(asked):
                continue
            if not logps.keys().isdisjoint(group.index):
                continue  # drafting has read it
            tokens = [
                state.unread(slot, row.sequences[g], ids) if row and asked[slot] else []
                for slot, (row, ids) in enumerate(zip(rows, draft.tokens, strict=True))
            ]
            blank: list[list[int]] = [[] for _ in group.streams]
            kept = [t if go else 0 for t, go in zip(tails, asked, strict=True)]
            logps |= state.read(0, [ids or blank for ids in tokens], kept)
            if g == 0 and settings.gates:
                asked = self._asked(rows, logps[BASE], settings, tails)
        return logps

    def _asked(
        self,
        rows: Sequence[Row | None],
        logp_base_BMV: Tensor,
        settings: Settings,
        tails: Sequence[int],
    ) -> list[bool]:
        """Slots whose ARMs must be read: the gate is open somewhere, or too much is unread."""
        closed = gated(logp_base_BMV, settings.gate_B).tolist()
        return [
            bool(row) and (not all(shut[:tail]) or self._pending(slot) >= CHUNK)
            for slot, (row, shut, tail) in enumerate(zip(rows, closed, tails, strict=True))
        ]

    def _plain(
        self, first: int, rows: Sequence[Row | None], fused: Fused, settings: Settings
    ) -> list[tuple[int, Chunk]]:
        """One token per row."""
        uniform_B = uniforms(rows, 1, 0, self._device)[:, 0]
        tokens_B = fusion.choose(
            fused.shaped_BV, settings.temperature_B, uniform_B, samples=settings.samples
        )
        if self._speculation:
            for row in rows:
                if row:
                    row.drafts.learn(0, 0)
        tokens = [[token] for token in tokens_B.tolist()]
        return self._push(first, rows, tokens, fused, 1)

    def _verified(
        self, rows: Sequence[Row | None], draft: Draft, fused: Fused, settings: Settings
    ) -> list[tuple[int, Chunk]]:
        """The drafts that are kept, and one token after them."""
        longest = max(map(len, draft.tokens))
        padded = [ids + [0] * (longest - len(ids)) for ids in draft.tokens]
        lengths = [len(ids) for ids in draft.tokens]
        shaped_BMV = fused.shaped_BV.view(len(rows), longest + 1, -1)
        kept_B, logp_BV = verify(
            shaped_BMV,
            torch.tensor(padded, device=self._device),
            draft.logq_BKV,
            torch.tensor(lengths, device=self._device),
            settings.temperature_B,
            uniforms(rows, longest, ACCEPT_LANE, self._device),
        )
        kept = kept_B.tolist()
        last = [
            fusion.uniform(row.sampling.seed, len(row.ids) + n) if row else 0.5
            for row, n in zip(rows, kept, strict=True)
        ]
        uniform_B = torch.tensor(last, dtype=torch.float64, device=self._device)
        ends = fusion.choose(logp_BV, settings.temperature_B, uniform_B, samples=settings.samples)
        tokens = [
            [*ids[:n], end] for ids, n, end in zip(draft.tokens, kept, ends.tolist(), strict=True)
        ]
        for row, n, drafted in zip(rows, kept, lengths, strict=True):
            if row:
                row.drafts.learn(n, drafted)
                row.drafted, row.accepted = row.drafted + drafted, row.accepted + n
        return self._push(0, rows, tokens, fused, longest + 1)

    def _push(
        self,
        first: int,
        rows: Sequence[Row | None],
        tokens: Sequence[Sequence[int]],
        fused: Fused,
        positions: int,
    ) -> list[tuple[int, Chunk]]:
        """Give the rows their tokens; finished ones leave."""
        if self._report:
            record(rows, tokens, fused, positions, self._fleet)
        shut = [] if fused.gated_B is None else fused.gated_B.view(-1, positions).tolist()
        chunks = []
        for slot, (row, own) in enumerate(zip(rows, tokens, strict=True), start=first):
            if row is None:
                continue
            released, taken = "", 0
            for token in own:
                released += row.push(token, self._fleet.ends)
                taken += 1
                if row.finish_reason:
                    break
            row.gated += sum(shut[slot - first][:taken]) if shut else 0
            del row.reports[len(row.ids) :]  # what was accepted behind the end
            for state, sequences in zip(self._states, row.sequences, strict=True):
                state.rewind(slot, [len(sequence) - 1 for sequence in sequences])
            done = row.completion() if row.finish_reason else None
            if done:
                self._free(slot)
            if released or done:
                chunks.append((row.key, Chunk(released, done)))
        return chunks

    def _all_settings(self) -> Settings:
        if self._settings is None:
            self._settings = Settings.of(self._slots, len(self._fleet.arms), self._device)
        return self._settings
