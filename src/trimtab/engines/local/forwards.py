"""Forwards of a group for some requests, and whose log-probs they give.

B requests, N of them that run a stream, M positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.group_cache import Entry, GroupCache
from trimtab.engines.local.rows import Row
from trimtab.engines.local.stream_rows import StreamRow
from trimtab.engines.local.transfer import on_device
from trimtab.engines.policies import Amateur


@dataclass(frozen=True)
class StreamLogps:
    """What one stream says.

    Attributes:
        rows: which of the B requests run it.
        logp_NMV: their log-probs over the base's ids.
    """

    rows: list[int]
    logp_NMV: Tensor

    def of_all(self, otherwise_BMV: Tensor) -> Tensor:
        """Of all B requests; those that do not run it have the others, [B, M, V]."""
        logp_NMV = self.logp_NMV.to(otherwise_BMV.device)
        if len(self.rows) == len(otherwise_BMV):
            return logp_NMV
        index = on_device(self.rows, otherwise_BMV.device)
        return otherwise_BMV.index_copy(0, index, logp_NMV)


Logps = dict[str, StreamLogps]
"""By the stream's name."""

Reading = Sequence[Sequence[int]] | None
"""What a request's streams in a group read, in their own ids; None if none of them reads."""


def forward_group(
    cache: GroupCache,
    group: int,
    rows: Sequence[Row],
    readings: Sequence[Reading],
    wanted: Sequence[int],
    positions: int,
) -> Logps:
    """One forward.

    Args:
        cache: the group's.
        group: its number.
        rows: the requests.
        readings: per request.
        wanted: per request, how many successors of its last tokens are wanted.
        positions: M, the most of them.
    """
    entries: list[Entry] = []
    whose: dict[int, list[int]] = {}
    for stream in range(len(cache.group.streams)):
        for i, (row, reading) in enumerate(zip(rows, readings, strict=True)):
            for mine, ids in zip(row.streams[group], reading or (), strict=False):
                if mine.stream == stream and ids:
                    entries.append(Entry(mine, ids, wanted[i]))
                    if wanted[i]:
                        whose.setdefault(stream, []).append(i)
    if not entries:
        return {}
    logp_EMV = cache.forward(entries, positions)
    found, start = {}, 0
    for stream, members in whose.items():
        found[stream] = StreamLogps(members, logp_EMV[start : start + len(members)])
        start += len(members)
    return {name: found[i] for name, i in cache.group.index.items() if i in found}


def pending(row: Row, group: int, drafts: Sequence[int] = ()) -> list[list[int]]:
    """What a request's streams in a group have still to read, and drafts after it."""
    return [mine.pending(drafts) for mine in row.streams[group]]


def with_caches(caches: Sequence[GroupCache], row: Row) -> Iterator[tuple[GroupCache, StreamRow]]:
    """Every stream of a request, with the cache of its group."""
    for cache, streams in zip(caches, row.streams, strict=True):
        for mine in streams:
            yield cache, mine


def contrasted(guide: StreamLogps, reference: StreamLogps) -> StreamLogps:
    """A guide's reward against its reference, for the rows that run both."""
    known = {*reference.rows}
    rows = [row for row in guide.rows if row in known]
    one, other = (_of_rows(logps, rows) for logps in (guide, reference))
    return StreamLogps(rows, fusion.contrast(one, other.to(one.device)))


def as_amateur(amateur: StreamLogps, base: StreamLogps, how: Amateur) -> StreamLogps:
    """What contrastive decoding makes of an amateur's log-probs, for the rows that run it."""
    base_NMV = _of_rows(base, amateur.rows)
    reward_NMV = fusion.contrastive(
        base_NMV, amateur.logp_NMV.to(base_NMV.device), how.penalty, how.plausibility
    )
    return StreamLogps(amateur.rows, reward_NMV)


def _of_rows(logps: StreamLogps, rows: Sequence[int]) -> Tensor:
    if logps.rows == list(rows):
        return logps.logp_NMV
    place = {row: n for n, row in enumerate(logps.rows)}
    return logps.logp_NMV[on_device([place[row] for row in rows], logps.logp_NMV.device)]


def joined(one: StreamLogps, other: StreamLogps) -> StreamLogps:
    """What a stream says of some rows and of others, each with positions of its own."""
    longest = max(one.logp_NMV.shape[1], other.logp_NMV.shape[1])
    logps = [
        torch.nn.functional.pad(part.logp_NMV, (0, 0, 0, longest - part.logp_NMV.shape[1]))
        for part in (one, other)
    ]
    return StreamLogps([*one.rows, *other.rows], torch.cat(logps))
