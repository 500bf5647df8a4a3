"""One step of the requests that run: some of the prompts is read, and every other row gets tokens.

B requests that get tokens, M positions of each, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.choosing import Fused, Settings, broken_streams, fuse, gated, uniforms
from trimtab.engines.local.drafting import Draft
from trimtab.engines.local.drafts import Wish, best_lengths
from trimtab.engines.local.forwards import (
    Logps,
    Reading,
    as_amateur,
    contrasted,
    forward_group,
    joined,
    pending,
    with_caches,
)
from trimtab.engines.local.group_cache import GroupCache
from trimtab.engines.local.guided_model import GuidedModel
from trimtab.engines.local.likelihoods import LOGITS, judged, pieces
from trimtab.engines.local.reading import shares
from trimtab.engines.local.reports import divergences, record
from trimtab.engines.local.rows import Pushed, Row
from trimtab.engines.local.speculating import Speculation
from trimtab.engines.local.streams import BASE, DRAFT
from trimtab.engines.local.watching import pauses, watched

CHUNK = 512
"""Tokens of all streams in one step, if the rows that get tokens leave room for prompts."""


@dataclass(frozen=True)
class _Chosen:
    """What came out of a step for the rows that get tokens."""

    rows: Sequence[Row]
    draft: Draft
    fused: Fused
    tokens: Sequence[Sequence[int]]


class Batch:
    """Runs steps.

    Args:
        model: what runs.
        caches: per group.
        speculation: drafts and verifies for the rows that want it.

    Attributes:
        can_rewind: whether every group can take tokens back, and read several at once at any time.
    """

    def __init__(
        self, model: GuidedModel, caches: Sequence[GroupCache], speculation: Speculation
    ) -> None:
        self._model, self._caches, self._speculation = model, caches, speculation
        self._device = model.groups[0].device
        self._settings: tuple[tuple[int, ...], Settings] | None = None
        self.can_rewind = all(cache.can_rewind for cache in caches)

    def step(self, rows: Sequence[Row]) -> list[Pushed]:
        """One step of some rows, the oldest first.

        Whatever it raises, no row has got a token then; `undo` makes them ready for another step.
        """
        ready = [row for row in rows if not row.prefilling]
        reading = [row for row in rows if row.prefilling]
        started = time.perf_counter()
        draft = self._draft(ready)
        # guides that have drafted have read one token of every row, and read no more now
        given = self._given(ready, len(rows), 0 if draft.logps else CHUNK // (2 if reading else 1))
        busy = sum(map(len, draft.tokens)) + sum(
            max(len(ids), 1) * len(s)
            for row, ids in zip(ready, given, strict=True)
            for s in row.streams
        )
        widths = shares(reading, CHUNK - busy)
        if not self.can_rewind:  # after a state, recurrent layers go on token by token
            widths = [row.unread for row in reading]
        through = [row for row, n in zip(reading, widths, strict=True) if n >= row.unread]
        left = CHUNK - busy - sum(widths) if self.can_rewind else LOGITS
        given += self._given(through, len(rows), left)
        chosen = self._choose([*ready, *through], draft, given, reading, widths)
        for row in through:
            row.prefilling = False
        pushed = self._push(chosen) if chosen else []
        if ready and not reading and not any(given):
            self._speculation.timed(ready, draft.tokens, time.perf_counter() - started)
        return pushed

    def _given(self, rows: Sequence[Row], beside: int, tokens: int) -> list[Sequence[int]]:
        """What rows with a given response are asked about now; `beside` rows run in all."""
        positions = LOGITS // (beside * self._model.vocabulary) if rows else 0
        return pieces(rows, [self._room(row) for row in rows], tokens, positions)

    def undo(self, rows: Sequence[Row]) -> None:
        """After a step that failed: let every stream have something to read again."""
        for row in rows:
            for cache, mine in with_caches(self._caches, row):
                cache.rewind(mine, len(mine.sequence) - 1)
            row.prefilling = row.prefilling or row.base.unread > 1

    def _settings_of(self, rows: Sequence[Row]) -> Settings:
        keys = tuple(row.key for row in rows)
        if self._settings is None or self._settings[0] != keys:
            self._settings = keys, Settings.of(rows, len(self._model.arms), self._device)
        return self._settings[1]

    # --- drafts --------------------------------------------------------------------------------

    def _draft(self, ready: Sequence[Row]) -> Draft:
        wishes = [self._wish(row) for row in ready]
        if not any(wish.most for wish in wishes):
            return Draft([[] for _ in ready])
        tokens = sum(len(streams) for row in ready for streams in row.streams)
        lengths = best_lengths(wishes, tokens, *self._speculation.costs())
        if not any(lengths):
            return Draft([[] for _ in ready])
        settings = self._settings_of(ready)
        return self._speculation.drafter.propose(ready, lengths, settings, self._caches)

    def _wish(self, row: Row) -> Wish:
        if row.drafts is None:
            return Wish(0.0, 0, 1)
        left, room = row.sampling.max_new_tokens - len(row.ids) - 1, self._room(row)
        return self._speculation.wish(row, left if room is None else min(left, room))

    def _room(self, row: Row) -> int | None:
        """Tokens that it may read ahead; None without a limit."""
        rooms = [cache.room(mine) for cache, mine in with_caches(self._caches, row)]
        return min((n for n in rooms if n is not None), default=None)

    # --- forwards ------------------------------------------------------------------------------

    def _choose(
        self,
        rows: Sequence[Row],
        draft: Draft,
        given: Sequence[Sequence[int]],
        reading: Sequence[Row],
        widths: Sequence[int],
    ) -> _Chosen | None:
        """Run all groups; choose tokens for `rows`, of which the first are those of the draft.

        The tokens of a row that is given some are these, the last of which need not be read.
        """
        drafts = [*draft.tokens, *[[] for _ in rows[len(draft.tokens) :]]]
        drafts = [[*own[:-1]] or ids for ids, own in zip(drafts, given, strict=True)]
        draft = Draft(drafts, draft.logps)
        others = [(row, n) for row, n in zip(reading, widths, strict=True) if n < row.unread]
        every = [*rows, *(row for row, _ in others)]
        wanted = [*(1 + len(ids) for ids in drafts), *[0] * len(others)]
        positions = max(wanted, default=1)
        logps = dict(draft.logps)
        settings = self._settings_of(rows) if rows else None
        asked = [True] * len(every)
        for g, cache in enumerate(self._caches):
            readings = [
                self._reading(g, row, ids) if go else None
                for row, ids, go in zip(rows, drafts, asked, strict=False)
            ]
            readings += [_chunks(row, g, n) for row, n in others]
            left = self._left(g, readings, logps)
            _count(every, left, g)
            new = forward_group(cache, g, every, left, wanted, positions)
            for name, found in new.items():
                logps[name] = joined(logps[name], found) if name in logps else found
            if g == 0 and settings and settings.gates:
                asked = self._asked(rows, logps[BASE].logp_NMV, settings, wanted)
        if not rows or settings is None:
            return None
        for name, reference in self._model.references.items():
            if name in logps:
                logps[name] = contrasted(logps[name], logps[reference])
        for name, how in self._model.amateurs.items():
            if name in logps:
                logps[name] = as_amateur(logps[name], logps[BASE], how)
        fused = fuse(
            settings.repeat(positions) if positions > 1 else settings,
            logps,
            self._model.arms,
            forward_kl=self._model.forward_kl,
            restraints=[(i * positions, r.restraint) for i, r in enumerate(rows) if r.restraint],
        )
        chosen = self._tokens(rows, drafts, given, fused, settings)
        return _Chosen(rows, draft, fused, chosen)

    def _reading(self, g: int, row: Row, drafts: Sequence[int]) -> Reading:
        only_drafts = self._caches[g].group.index.keys() == {DRAFT}
        if only_drafts and not row.prefilling:
            return None  # it has drafted, or catches up when it does
        return pending(row, g, drafts)

    def _left(self, g: int, readings: Sequence[Reading], logps: Logps) -> Sequence[Reading]:
        """Without the rows that drafting has read already in this group."""
        done = {
            row
            for name in self._caches[g].group.index
            if name in logps and name != BASE
            for row in logps[name].rows
        }
        if not done:
            return readings
        return [None if i in done else reading for i, reading in enumerate(readings)]

    def _asked(
        self, rows: Sequence[Row], logp_base_BMV: Tensor, settings: Settings, wanted: Sequence[int]
    ) -> list[bool]:
        """Rows whose ARMs must be read: the gate is open somewhere, or too much is unread."""
        closed = gated(logp_base_BMV, settings.gate_B).tolist()
        return [
            row.prefilling or not all(shut[:count]) or row.unread >= CHUNK
            for row, shut, count in zip(rows, closed, wanted, strict=False)
        ]

    # --- tokens --------------------------------------------------------------------------------

    def _tokens(
        self,
        rows: Sequence[Row],
        drafts: Sequence[Sequence[int]],
        given: Sequence[Sequence[int]],
        fused: Fused,
        settings: Settings,
    ) -> list[Sequence[int]]:
        """Per row: the drafts that the fused distribution chooses, too, and one token after them.
        Or else what it is given.

        A row whose distribution is not one gets no token, and an error.
        """
        positions = len(fused.logp_BV) // len(rows)
        temperature_N = settings.temperature_B.repeat_interleave(positions)
        uniform_N = temperature_N.double()
        if settings.samples:
            uniform_N = uniforms(rows, positions, self._device).flatten()
        chosen_N = fusion.choose(
            fused.shaped_BV, temperature_N, uniform_N, samples=settings.samples
        )
        broken_N = fused.logp_BV[:, 0].isnan()
        chosen, broken = torch.stack([chosen_N, broken_N.long()]).view(2, -1, positions).tolist()
        tokens: list[Sequence[int]] = []
        for i, (row, ids) in enumerate(zip(rows, drafts, strict=True)):
            own = given[i] or chosen[i]
            kept = next((m for m, token in enumerate(ids) if token != own[m]), len(ids))
            if not ids and not broken[i][0] and pauses(row, fused, i * positions):
                row.finish_reason, kept = "length", -1
            if any(broken[i][: kept + 1]):
                at = range(i * positions, i * positions + kept + 1)
                _fail(row, broken_streams(fused, [*at], self._model.arms))
                kept = -1
            tokens.append(own[: kept + 1])
        return tokens

    def _push(self, chosen: _Chosen) -> list[Pushed]:
        """Give the rows their tokens."""
        reported = [i for i, row in enumerate(chosen.rows) if row.plan.request.report]
        kl = divergences(chosen.rows, chosen.tokens, chosen.fused)
        reports = record(chosen.rows, chosen.tokens, reported, chosen.fused, kl, self._model)
        looked_at = judged(chosen.rows, chosen.tokens, chosen.fused, kl)
        gated_B = chosen.fused.gated_B
        shut = [] if gated_B is None else gated_B.view(len(chosen.rows), -1).tolist()
        positions = len(chosen.fused.logp_BV) // len(chosen.rows)
        pushed = []
        for i, row in enumerate(chosen.rows):
            tokens, drafted = chosen.tokens[i], len(chosen.draft.tokens[i])
            self._speculation.learn(row, len(tokens) - 1, drafted)
            before = len(row.ids)
            for token in tokens:
                row.push(token, self._model.ends)
                if row.finish_reason:
                    break
            new = row.ids[before:]
            row.drafted += drafted
            row.accepted += min(len(new), max(len(tokens) - 1, 0))  # the last is the target's own
            row.gated += sum(shut[i][: len(new)]) if shut else 0
            if tokens or row.error:  # one that pauses has computed its last token, too
                self._settle(row)
            seen = looked_at.get(i) or watched(row, new, chosen.fused, i * positions)
            told = reports.get(i, [])[: len(new)]
            pushed.append(Pushed.of(row, new, told, seen, kl[i][: len(new)]))
        return pushed

    def _settle(self, row: Row) -> None:
        """Take back what was computed of drafts that were not kept."""
        for cache, mine in with_caches(self._caches, row):
            if mine.computed > len(mine.sequence) - 1:
                cache.rewind(mine, len(mine.sequence) - 1)
            row.prefilling |= cache.outgrown(mine)


def _chunks(row: Row, g: int, width: int) -> list[list[int]]:
    """What a row's streams read of their prompts now; the last token waits for all."""
    return [ids[: min(width, len(ids) - 1)] for ids in pending(row, g)]


def _count(rows: Sequence[Row], readings: Sequence[Reading], g: int) -> None:
    """Note what rows read in a group; the base's stream is the first of the first."""
    for row, reading in zip(rows, readings, strict=True):
        lengths = [len(ids) for ids in reading or ()]
        if g == 0 and lengths:
            row.passes += 1
            row.read[0] += lengths[0]
            lengths = lengths[1:]
        row.read[1] += sum(lengths)


def _fail(row: Row, streams: Sequence[Sequence[str]]) -> None:
    names = dict.fromkeys(name for place in streams for name in place)
    row.finish_reason = "error"
    row.error = (
        f"the logits of {' and '.join(names)} are not numbers (NaN): "
        "try --dtype float32; if that is no help, the weights are damaged"
    )
