"""The requests that run together: reading their prompts, and rounds of tokens.

B slots, M positions per slot, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.choosing import Fused, Settings, fuse, gated, require_numbers, uniforms
from trimtab.engines.local.drafting import Draft
from trimtab.engines.local.fleet import Fleet, Speculation
from trimtab.engines.local.open_slots import open_slots
from trimtab.engines.local.reports import record
from trimtab.engines.local.rows import Row
from trimtab.engines.local.streams import BASE, DRAFT
from trimtab.engines.speculation import ACCEPT_LANE, verify
from trimtab.engines.types import Chunk

CHUNK = 512
"""Prompt tokens (over all requests) that are read between two rounds."""

Chunks = list[tuple[int, Chunk]]
"""(key of a request, text that it released)."""


class Batch:
    """Slots, some of them empty, and what every group has read of the requests in them.

    Args:
        fleet: the models.
        slots: requests decoded together.
        length: tokens a request may have, prompt and response.
        report: keep a report of every token.
        speculation: draft and verify; None decodes token by token.

    Attributes:
        rows: per slot, its request.
        states: per group, what it has read.
    """

    def __init__(
        self,
        fleet: Fleet,
        slots: int,
        length: int,
        *,
        report: bool,
        speculation: Speculation | None,
    ) -> None:
        self._fleet, self._report, self._speculation = fleet, report, speculation
        self._device = fleet.groups[0].device
        self.rows: list[Row | None] = [None] * slots
        self.states = [open_slots(group, slots, length) for group in fleet.groups]
        self._settings: Settings | None = None

    @property
    def used(self) -> int:
        """Slots up to the last one that is taken."""
        return max((i + 1 for i, row in enumerate(self.rows) if row), default=0)

    @property
    def can_rewind(self) -> bool:
        """Whether every group can take tokens back, and read several at once at any time."""
        return all(state.can_rewind for state in self.states)

    def place(self, slot: int, row: Row) -> None:
        """Let a request begin, or begin again, in an empty slot."""
        self.rows[slot], self._settings, row.prefilling = row, None, True
        for state, sequences in zip(self.states, row.sequences, strict=True):
            state.condition(slot, row.plan.conditions)
            state.outgrown(slot, sequences)

    def recall(self, slot: int) -> None:
        """Let a new request take over what the slots hold of its beginning."""
        row = self.rows[slot]
        assert row is not None
        for state, sequences in zip(self.states, row.sequences, strict=True):
            for stream, sequence in enumerate(sequences):
                state.recall(slot, stream, sequence)

    def free(self, slot: int) -> None:
        """Empty a slot."""
        self.rows[slot] = self._settings = None
        for state in self.states:
            state.clear(slot)

    def move(self, source: int, target: int) -> None:
        """Go on with a request in another slot."""
        self.rows[target], self.rows[source] = self.rows[source], None
        self._settings = None
        for state in self.states:
            state.move(source, target)

    # --- prompts -------------------------------------------------------------------------------

    def prefill(self, span: range) -> Chunks:
        """Read one chunk of the prompts in some slots; who has read all of it gets a token.

        A request that is read anew, with tokens of its own already, gets none here: it leaves its
        last token to the next round, which so uses the same random numbers as ever.
        """
        first, count = span.start, len(span)
        pending = [self._pending(slot) for slot in span]
        width = max(1, min(max(pending), max(CHUNK // count, 1)))
        if not self.can_rewind:
            width = max(1, *pending)  # after a state, recurrent layers go on token by token
        done = [n <= width for n in pending]
        ready = [self.rows[slot] if go else None for slot, go in zip(span, done, strict=True)]
        rows = [row if row and not row.ids else None for row in ready]
        logps: dict[str, Tensor] = {}
        for g, state in enumerate(self.states):
            tokens = [self._chunk(g, slot, width, go) for slot, go in zip(span, done, strict=True)]
            if any(ids for own in tokens for ids in own):
                logps |= state.read(first, tokens, [int(row is not None) for row in rows])
        for row in ready:
            if row:
                row.prefilling = False
        if not any(rows):
            return []
        settings = self._all_settings().rows(first, count)
        return self._plain(first, rows, fuse(settings, logps, self._fleet.arms), settings)

    def _pending(self, slot: int, *, guides: bool = False) -> int:
        """The most that any stream (or only base and ARMs) of a slot has still to read."""
        row = self.rows[slot]
        assert row is not None
        unread: list[int] = [
            len(sequence) - n
            for state, sequences in zip(self.states, row.sequences, strict=True)
            if not (guides and state.group.index.keys() == {DRAFT})
            for sequence, n in zip(sequences, state.read_so_far[slot], strict=True)
        ]
        return max(unread) - (row.prefilling and bool(row.ids))

    def _chunk(self, g: int, slot: int, width: int, done: bool) -> list[list[int]]:
        """What a slot's streams read of their prompts now; the last token waits for all."""
        row = self.rows[slot]
        assert row is not None
        tokens: list[list[int]] = self.states[g].unread(slot, row.sequences[g])
        if row.ids:
            return [ids[:-1][:width] for ids in tokens]
        return tokens if done else [ids[: min(width, len(ids) - 1)] for ids in tokens]

    # --- rounds --------------------------------------------------------------------------------

    def decode(self) -> Chunks:
        """One round for every request that has read its prompt."""
        used = self.used
        rows = [row if row and not row.prefilling else None for row in self.rows[:used]]
        if not any(rows):
            return []
        settings = self._all_settings().rows(0, used)
        draft = self._draft(rows, settings)
        positions = 1 + max(map(len, draft.tokens))
        logps = self._read(rows, draft, settings)
        repeated = settings.rows(0, used, positions) if positions > 1 else settings
        fused = fuse(repeated, logps, self._fleet.arms)
        if positions == 1:
            return self._plain(0, rows, fused, settings)
        return self._verified(rows, draft, fused, settings)

    def _draft(self, rows: Sequence[Row | None], settings: Settings) -> Draft:
        lengths = [self._draft_length(row) if row else 0 for row in rows]
        if self._speculation is None or not any(lengths):
            return Draft([[] for _ in rows])
        draft: Draft = self._speculation.drafter.propose(rows, lengths, settings, self.states)
        return draft

    def _draft_length(self, row: Row) -> int:
        rooms = [state.room(own) for state, own in zip(self.states, row.sequences, strict=True)]
        room = min((n for n in rooms if n is not None), default=row.sampling.max_new_tokens)
        return min(row.drafts.best(), row.sampling.max_new_tokens - len(row.ids) - 1, room)

    def _read(
        self, rows: Sequence[Row | None], draft: Draft, settings: Settings
    ) -> dict[str, Tensor]:
        """Every stream's log-probs after its last token and after each draft, [B, M, V]."""
        tails = [1 + len(ids) if row else 0 for row, ids in zip(rows, draft.tokens, strict=True)]
        logps = dict(draft.logps)
        asked = [bool(row) for row in rows]
        for g, (group, state) in enumerate(zip(self._fleet.groups, self.states, strict=True)):
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
            found = state.read(0, [ids or blank for ids in tokens], kept)
            logps |= {name: _as_long(logp, max(tails)) for name, logp in found.items()}
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
            bool(row) and (not all(shut[:tail]) or self._pending(slot, guides=True) >= CHUNK)
            for slot, (row, shut, tail) in enumerate(zip(rows, closed, tails, strict=True))
        ]

    def _plain(
        self, first: int, rows: Sequence[Row | None], fused: Fused, settings: Settings
    ) -> Chunks:
        """One token per row."""
        uniform_B = uniforms(rows, 1, 0, self._device)[:, 0]
        tokens_B = fusion.choose(
            fused.shaped_BV, settings.temperature_B, uniform_B, samples=settings.samples
        )
        tokens = [[token] for token in tokens_B.tolist()]
        return self._push(first, rows, tokens, fused, [0] * len(rows))

    def _verified(
        self, rows: Sequence[Row | None], draft: Draft, fused: Fused, settings: Settings
    ) -> Chunks:
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
        return self._push(0, rows, tokens, fused, lengths)

    def _push(
        self,
        first: int,
        rows: Sequence[Row | None],
        tokens: Sequence[Sequence[int]],
        fused: Fused,
        drafted: Sequence[int],
    ) -> Chunks:
        """Give the rows their tokens; finished ones leave."""
        positions = 1 + max(drafted)
        at = [i * positions + m for i, own in enumerate(tokens) if rows[i] for m in range(len(own))]
        require_numbers(fused, at, self._fleet.arms)
        if self._report:
            record(rows, tokens, fused, positions, self._fleet)
        shut = [] if fused.gated_B is None else fused.gated_B.view(-1, positions).tolist()
        chunks = []
        for slot, (row, own) in enumerate(zip(rows, tokens, strict=True), start=first):
            if row is None:
                continue
            row.drafts.learn(len(own) - 1, drafted[slot - first])
            row.drafted += drafted[slot - first]
            released, taken = "", 0
            for token in own:
                released += row.push(token, self._fleet.ends)
                taken += 1
                if row.finish_reason:
                    break
            row.accepted += min(taken, len(own) - 1)  # the last of a round was drawn
            row.gated += sum(shut[slot - first][:taken]) if shut else 0
            del row.reports[len(row.ids) :]  # what was accepted behind the end
            for state, sequences in zip(self.states, row.sequences, strict=True):
                state.rewind(slot, [len(sequence) - 1 for sequence in sequences])
                row.prefilling |= state.outgrown(slot, sequences)
            done = row.completion() if row.finish_reason else None
            if done:
                self.free(slot)
            if released or done:
                chunks.append((row.key, Chunk(released, done)))
        return chunks

    def _all_settings(self) -> Settings:
        if self._settings is None:
            self._settings = Settings.of(self.rows, len(self._fleet.arms), self._device)
        return self._settings


def _as_long(logp_BMV: Tensor, positions: int) -> Tensor:
    """Log-probs for more positions, which mean nothing: a gate shut the rows that have them."""
    missing = positions - logp_BMV.shape[1]
    last = logp_BMV[:, -1:].expand(-1, missing, -1)
    return torch.cat([logp_BMV, last], 1) if missing else logp_BMV
