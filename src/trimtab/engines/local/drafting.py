"""Drafters: who proposes tokens for the fused distribution to choose or not.

The target chooses every token with its own random number, as it does without drafts; a draft is
kept while it is what the target chooses. So speculation never changes a token. A drafter that draws
with the same numbers guesses the target's choice the better, the nearer it is to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.choosing import Settings, shape, uniforms
from trimtab.engines.local.forwards import Logps, StreamLogps, forward_group, pending
from trimtab.engines.local.group_cache import GroupCache
from trimtab.engines.local.guided_model import GuidedModel
from trimtab.engines.local.rows import Row
from trimtab.engines.local.streams import DRAFT, Group

NGRAM: Literal["ngram"] = "ngram"
LONGEST_MATCH = 3


@dataclass(frozen=True)
class Offer:
    """What could be drafted for one row now.

    Attributes:
        kind: of draft (`DraftRates`).
        most: tokens.
    """

    kind: int = 0
    most: int = 0


@dataclass(frozen=True)
class Draft:
    """What was proposed for some rows.

    Attributes:
        tokens: per row, base ids; possibly none.
        logps: of the guides that drafting has read: their successors', too.
    """

    tokens: list[list[int]]
    logps: Logps = field(default_factory=dict)


class Drafter(Protocol):
    """Proposes tokens."""

    def offer(self, row: Row, most: int) -> Offer:
        """What could be drafted for a row, at most so many tokens."""

    def propose(
        self,
        rows: Sequence[Row],
        lengths: Sequence[int],
        settings: Settings,
        caches: Sequence[GroupCache],
    ) -> Draft:
        """A draft of so many tokens per row; each was offered."""


class NgramDrafter:
    """Proposes what followed the last few tokens the last time they occurred."""

    def offer(self, row: Row, most: int) -> Offer:
        """As `Drafter.offer`."""
        matched, ids = continuation(row.base.sequence, most)
        return Offer(matched, len(ids))

    def propose(
        self,
        rows: Sequence[Row],
        lengths: Sequence[int],
        settings: Settings,
        caches: Sequence[GroupCache],
    ) -> Draft:
        """As `Drafter.propose`."""
        return Draft(
            [
                continuation(row.base.sequence, length)[1] if length else []
                for row, length in zip(rows, lengths, strict=True)
            ]
        )


_WINDOW = 2048
"""Tokens that are searched."""


def continuation(ids: Sequence[int], length: int) -> tuple[int, list[int]]:
    """How many of the last 3, 2 or 1 tokens occurred before, and what followed the last time."""
    ids = ids[-_WINDOW:]
    for n in range(min(LONGEST_MATCH, len(ids) - 1), 0, -1):
        last, end = list(ids[-n:]), len(ids)
        for at in range(end - n - 1, -1, -1):
            if ids[at] == last[0] and list(ids[at : at + n]) == last:
                return n, list(ids[at + n : at + n + length])
    return 0, []


class ModelDrafter:
    """Chooses from small models: ARMs, whose log-probs are needed anyway, a draft model, or both.

    The target is π_b · Π π_i^{w_i}. The draft model stands in for the base and for those ARMs that
    are not in this group; without one the group's ARMs stand in for the base. Guides with a
    reference have no part in the guess.

    Args:
        index: the group's place among all groups.
        group: what it runs through.
        model: what is steered, and its guides.
    """

    def __init__(self, index: int, group: Group, model: GuidedModel) -> None:
        self._index = index
        arms = [name for name in model.arms if name not in model.references]
        self._all = [model.arms.index(name) for name in arms]
        self._arms = [name for name in arms if name in group.index]
        self._columns = [model.arms.index(name) for name in self._arms]
        self._has_draft = DRAFT in group.index
        self._read = [name for name in group.index if name != DRAFT]

    def offer(self, row: Row, most: int) -> Offer:
        """As `Drafter.offer`."""
        return Offer(0, most if row.streams[self._index] else 0)

    def propose(
        self,
        rows: Sequence[Row],
        lengths: Sequence[int],
        settings: Settings,
        caches: Sequence[GroupCache],
    ) -> Draft:
        """As `Drafter.propose`; guides also read the last of the drafts."""
        also_last = bool(self._read)
        drafts: list[list[int]] = [[] for _ in rows]
        logps: list[Logps] = []
        for k in range(max(lengths) + also_last):
            reads = [k < n + also_last for n in lengths]
            readings = [
                pending(row, self._index, drafts[i]) if read else None
                for i, (row, read) in enumerate(zip(rows, reads, strict=True))
            ]
            wanted = [int(read) for read in reads]
            logps.append(forward_group(caches[self._index], self._index, rows, readings, wanted, 1))
            drawing = [i for i, n in enumerate(lengths) if k < n]
            for i, token in zip(
                drawing, self._draw(rows, drawing, logps[-1], settings, k), strict=True
            ):
                drafts[i].append(token)
        return Draft(
            drafts, {name: _joined(logps, name) for name in self._read if name in logps[0]}
        )

    def _draw(
        self, rows: Sequence[Row], drawing: list[int], logps: Logps, settings: Settings, ahead: int
    ) -> list[int]:
        """The next draft of some rows, with the numbers that the target will choose with."""
        if not drawing:
            return []
        mine = settings.pick(drawing)
        guess_BV = self._guess(drawing, logps, mine)
        uniform_B = uniforms([rows[i] for i in drawing], 1, guess_BV.device, ahead)[:, 0]
        picked_B = fusion.choose(
            shape(mine, guess_BV), mine.temperature_B, uniform_B, samples=mine.samples
        )
        return [int(token) for token in picked_B.tolist()]

    def _guess(self, drawing: list[int], logps: Logps, settings: Settings) -> Tensor:
        """The drafting distribution before temperature and filters, [B, V]."""
        device = settings.temperature_B.device
        weights_BK = settings.weights_BK[:, self._columns]
        own_B1 = weights_BK.sum(-1, keepdim=True)
        missing_B1 = 1 + settings.weights_BK[:, self._all].sum(-1, keepdim=True) - own_B1
        arms = [_of(logps.get(name), drawing, device) for name in self._arms]
        if self._has_draft:
            first_BV = _of(logps[DRAFT], drawing, device)
            assert first_BV is not None
            mixed_BV = missing_B1 * first_BV
        else:  # the ARMs stand in for what is missing, in proportion to their weights
            even_BK = torch.full_like(weights_BK, 1 / len(arms))
            shares_BK = torch.where(own_B1 > 0, weights_BK / own_B1, even_BK)
            weights_BK = weights_BK + missing_B1 * shares_BK
            first_BV = next(logp_BV for logp_BV in arms if logp_BV is not None)
            mixed_BV = torch.zeros_like(first_BV)
        for i, logp_BV in enumerate(arms):
            if logp_BV is not None:
                weight_B1 = weights_BK[:, i : i + 1]
                mixed_BV = mixed_BV + torch.where(weight_B1 == 0, 0.0, weight_B1 * logp_BV)
        return fusion.normalised(mixed_BV, first_BV)


def _of(logps: StreamLogps | None, drawing: Sequence[int], device: torch.device) -> Tensor | None:
    """A stream's log-probs at its one position, [B, V]: 0 for rows that do not run it."""
    if logps is None:
        return None
    logp_NV = logps.logp_NMV[:, 0].to(device)
    if logps.rows == list(drawing):
        return logp_NV
    place = {row: n for n, row in enumerate(logps.rows)}
    blank_V = torch.zeros_like(logp_NV[0])
    return torch.stack([logp_NV[place[i]] if i in place else blank_V for i in drawing])


def _joined(logps: Sequence[Logps], name: str) -> StreamLogps:
    """A stream's log-probs at all positions; every row that runs it has read the first."""
    first = logps[0][name]
    shape_NMV = (len(first.rows), len(logps), first.logp_NMV.shape[-1])
    joined_NMV = first.logp_NMV.new_zeros(shape_NMV)
    place = {row: n for n, row in enumerate(first.rows)}
    for m, logp in enumerate(logps):
        if name in logp:
            at = [place[row] for row in logp[name].rows]
            joined_NMV[at, m] = logp[name].logp_NMV[:, 0]
    return StreamLogps(first.rows, joined_NMV)
