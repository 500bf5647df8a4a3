"""The requests that run together: reading their prompts, and rounds of tokens.

B slots, M positions per slot, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.choosing import Fused, Settings, fuse, gated, require_numbers, uniforms
from trimtab.engines.local.drafting import Draft, Speculation
from trimtab.engines.local.group_cache import open_cache
from trimtab.engines.local.guided_model import GuidedModel
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
    """SlotCaches, some of them empty, and what every group has read of the requests in them.

    Args:
        model: what runs.
        slots: requests decoded together.
        length: tokens a request may have, prompt and response.
        report: keep a report of every token.
        speculation: draft and verify; None decodes token by token.

    Attributes:
        rows: per slot, its request.
        caches: per group, what it has computed.
    """

    def __init__(
        self,
        model: GuidedModel,
        slots: int,
        length: int,
        *,
        report: bool,
        speculation: Speculation | None,
    ) -> None:
        self._model, self._report, self._speculation = model, report, speculation
        self._device = model.groups[0].device
        self.rows: list[Row | None] = [None] * slots
        self.caches = [open_cache(group, slots, length) for group in model.groups]
        self._settings: Settings | None = None

    @property
    def used(self) -> int:
        """Slots up to the last one that is taken."""
        return max((i + 1 for i, row in enumerate(self.rows) if row), default=0)

    @property
    def can_rewind(self) -> bool:
        """Whether every group can take tokens back, and read several at once at any time."""
        return all(cache.can_rewind for cache in self.caches)

    def admit(self, slot: int, row: Row) -> None:
        """Let a request begin, or begin again, in an empty slot."""
        self.rows[slot], self._settings, row.prefilling = row, None, True
        for cache, sequences in zip(self.caches, row.sequences, strict=True):
            cache.condition(slot, row.plan.conditions)
            cache.outgrown(slot, sequences)

    def reuse_prefix(self, slot: int) -> None:
        """Let a new request take over what the slots hold of its beginning."""
        row = self.rows[slot]
        assert row is not None
        for cache, sequences in zip(self.caches, row.sequences, strict=True):
            for stream, sequence in enumerate(sequences):
                cache.reuse_prefix(slot, stream, sequence)

    def free(self, slot: int) -> None:
        """Empty a slot."""
        self.rows[slot] = self._settings = None
        for cache in self.caches:
            cache.clear(slot)

    def move(self, source: int, target: int) -> None:
        """Go on with a request in another slot."""
        self.rows[target], self.rows[source] = self.rows[source], None
        self._settings = None
        for cache in self.caches:
            cache.move(source, target)

    # --- prompts -------------------------------------------------------------------------------

    def prefill(self, span: range) -> Chunks:
        """Read one chunk of the prompts in some slots; who has read all of it gets a token.

        A request that is read anew, with tokens of its own already, gets none here: it leaves its
        last token to the next round, which so uses the same random numbers as ever.
        """
        first, count = span.start, len(span)
        pending = [self._most_pending(slot) for slot in span]
        width = max(1, min(max(pending), max(CHUNK // count, 1)))
        if not self.can_rewind:
            width = max(1, *pending)  # after a state, recurrent layers go on token by token
        done = [n <= width for n in pending]
        ready = [self.rows[slot] if go else None for slot, go in zip(span, done, strict=True)]
        rows = [row if row and not row.ids else None for row in ready]
        logps: dict[str, Tensor] = {}
        for g, cache in enumerate(self.caches):
            tokens = [self._chunk(g, slot, width, go) for slot, go in zip(span, done, strict=True)]
            if any(ids for slot_tokens in tokens for ids in slot_tokens):
                logps |= cache.forward(first, tokens, [int(row is not None) for row in rows])
        for row in ready:
            if row:
                row.prefilling = False
        if not any(rows):
            return []
        settings = self._all_settings().rows(first, count)
        return self._plain(first, rows, fuse(settings, logps, self._model.arms), settings)

    def _most_pending(self, slot: int, *, guides: bool = False) -> int:
        """The most that any stream (or only base and ARMs) of a slot has still to read."""
        row = self.rows[slot]
        assert row is not None
        pending = [
            len(sequence) - n
            for cache, sequences in zip(self.caches, row.sequences, strict=True)
            if not (guides and cache.group.index.keys() == {DRAFT})
            for sequence, n in zip(sequences, cache.computed[slot], strict=True)
        ]
        return max(pending) - (row.prefilling and bool(row.ids))

    def _chunk(self, g: int, slot: int, width: int, done: bool) -> list[list[int]]:
        """What a slot's streams read of their prompts now; the last token waits for all."""
        row = self.rows[slot]
        assert row is not None
        tokens = self.caches[g].pending(slot, row.sequences[g])
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
        logps = self._forward(rows, draft, settings)
        repeated = settings.rows(0, used, positions) if positions > 1 else settings
        fused = fuse(repeated, logps, self._model.arms)
        if positions == 1:
            return self._plain(0, rows, fused, settings)
        return self._verified(rows, draft, fused, settings)

    def _draft(self, rows: Sequence[Row | None], settings: Settings) -> Draft:
        lengths = [self._draft_length(row) if row else 0 for row in rows]
        if self._speculation is None or not any(lengths):
            return Draft([[] for _ in rows])
        return self._speculation.drafter.propose(rows, lengths, settings, self.caches)

    def _draft_length(self, row: Row) -> int:
        rooms = [
            cache.room(sequence) for cache, sequence in zip(self.caches, row.sequences, strict=True)
        ]
        room = min((n for n in rooms if n is not None), default=row.sampling.max_new_tokens)
        return min(row.drafts.best(), row.sampling.max_new_tokens - len(row.ids) - 1, room)

    def _forward(
        self, rows: Sequence[Row | None], draft: Draft, settings: Settings
    ) -> dict[str, Tensor]:
        """Every stream's log-probs after its last token and after each draft, [B, M, V]."""
        wanted = [1 + len(ids) if row else 0 for row, ids in zip(rows, draft.tokens, strict=True)]
        logps = dict(draft.logps)
        asked = [bool(row) for row in rows]
        for g, (group, cache) in enumerate(zip(self._model.groups, self.caches, strict=True)):
            if group.index.keys() == {DRAFT} or not any(asked):
                continue
            if not logps.keys().isdisjoint(group.index):
                continue  # drafting has read it
            tokens = [
                cache.pending(slot, row.sequences[g], ids) if row and asked[slot] else []
                for slot, (row, ids) in enumerate(zip(rows, draft.tokens, strict=True))
            ]
            blank: list[list[int]] = [[] for _ in group.streams]
            heads = [n if go else 0 for n, go in zip(wanted, asked, strict=True)]
            logps |= cache.forward(
                0, [ids or blank for ids in tokens], heads, positions=max(wanted)
            )
            if g == 0 and settings.gates:
                asked = self._guided_slots(rows, logps[BASE], settings, wanted)
        return logps

    def _guided_slots(
        self,
        rows: Sequence[Row | None],
        logp_base_BMV: Tensor,
        settings: Settings,
        wanted: Sequence[int],
    ) -> list[bool]:
        """Slots whose ARMs must be read: the gate is open somewhere, or too much is unread."""
        closed = gated(logp_base_BMV, settings.gate_B).tolist()
        return [
            bool(row) and (not all(shut[:count]) or self._most_pending(slot, guides=True) >= CHUNK)
            for slot, (row, shut, count) in enumerate(zip(rows, closed, wanted, strict=True))
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
        accepted_B, logp_BV = verify(
            shaped_BMV,
            torch.tensor(padded, device=self._device),
            draft.logq_BKV,
            torch.tensor(lengths, device=self._device),
            settings.temperature_B,
            uniforms(rows, longest, ACCEPT_LANE, self._device),
        )
        accepted = accepted_B.tolist()
        last = [
            fusion.uniform(row.sampling.seed, len(row.ids) + n) if row else 0.5
            for row, n in zip(rows, accepted, strict=True)
        ]
        uniform_B = torch.tensor(last, dtype=torch.float64, device=self._device)
        ends = fusion.choose(logp_BV, settings.temperature_B, uniform_B, samples=settings.samples)
        tokens = [
            [*ids[:n], end]
            for ids, n, end in zip(draft.tokens, accepted, ends.tolist(), strict=True)
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
        at = [
            i * positions + m
            for i, row_tokens in enumerate(tokens)
            if rows[i]
            for m in range(len(row_tokens))
        ]
        require_numbers(fused, at, self._model.arms)
        if self._report:
            record(rows, tokens, fused, positions, self._model)
        shut = [] if fused.gated_B is None else fused.gated_B.view(-1, positions).tolist()
        chunks = []
        for slot, (row, row_tokens) in enumerate(zip(rows, tokens, strict=True), start=first):
            if row is None:
                continue
            row.drafts.learn(len(row_tokens) - 1, drafted[slot - first])
            row.drafted += drafted[slot - first]
            released, pushed = "", 0
            for token in row_tokens:
                released += row.push(token, self._model.ends)
                pushed += 1
                if row.finish_reason:
                    break
            row.accepted += min(pushed, len(row_tokens) - 1)  # the last of a round was drawn
            row.gated += sum(shut[slot - first][:pushed]) if shut else 0
            del row.reports[len(row.ids) :]  # what was accepted behind the end
            for cache, sequences in zip(self.caches, row.sequences, strict=True):
                cache.rewind(slot, [len(sequence) - 1 for sequence in sequences])
                row.prefilling |= cache.outgrown(slot, sequences)
            done = row.completion() if row.finish_reason else None
            if done:
                self.free(slot)
            if released or done:
                chunks.append((row.key, Chunk(released, done)))
        return chunks

    def _all_settings(self) -> Settings:
        if self._settings is None:
            self._settings = Settings.of(self.rows, len(self._model.arms), self._device)
        return self._settings
