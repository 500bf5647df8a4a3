"""What runs: a request, and what a step gave to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trimtab.engines.local.drafts import RowDrafts
from trimtab.engines.local.stream_rows import StreamRow, own_ids
from trimtab.engines.local.streams import Group
from trimtab.engines.types import FinishReason, Request, Sampling, TokenReport
from trimtab.steering import Steering


@dataclass(frozen=True)
class RowPlan:
    """One request, checked and tokenised.

    Attributes:
        request: as it was given.
        steering: its validated preference, strength, KL budget and gate.
        sampling: the request's, with the seed that is used.
        weights: fusion weight per ARM, [K].
        prompts: stream name -> the prompt's ids in its own template.
        conditions: ARM name -> the preference inside it, for conditioned ARMs.
    """

    request: Request
    steering: Steering
    sampling: Sampling
    weights: list[float]
    prompts: Mapping[str, list[int]]
    conditions: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens that the longest stream may come to."""
        return max(map(len, self.prompts.values())) + self.sampling.max_new_tokens


class Row:
    """A request that is being answered.

    Attributes:
        crowd: that it is one of; None for a request by itself.
        ids: generated so far, in the base's vocabulary.
        streams: per group, the streams that this request runs.
        prefilling: whether its prompt has still to be read.
        prefix_of: another row whose prompt begins like this one's, and how far; its reading is
            worth waiting for.
        starved: tokens that it had when it was last put off for want of memory, running alone.
        finish_reason: set at the end.
        error: what went wrong with this request alone.
    """

    def __init__(
        self,
        key: int,
        plan: RowPlan,
        groups: Sequence[Group],
        drafts: RowDrafts | None = None,
        crowd: Crowd | None = None,
    ) -> None:
        self.key, self.plan, self.drafts, self.crowd = key, plan, drafts, crowd
        self.sampling = plan.sampling
        self.ids: list[int] = []
        self.gated = self.drafted = self.accepted = 0
        self.finish_reason: FinishReason | None = None
        self.error = ""
        self.starved = -1
        self.prefilling = True
        self.prefix_of: tuple[Row, int] | None = None
        self.streams = [_streams_of(group, plan) for group in groups]

    @property
    def base(self) -> StreamRow:
        """The base's own."""
        return self.streams[0][0]

    @property
    def unread(self) -> int:
        """The most that any stream has still to read of its sequence."""
        return max(row.unread for rows in self.streams for row in rows)

    def push(self, token: int, ends: frozenset[int]) -> None:
        """Take one token; sets `finish_reason` at the end."""
        self.ids.append(token)
        for rows in self.streams:
            for row in rows:
                row.sequence += own_ids([token], row.vocabulary)
        if token in ends and not self.sampling.ignore_eos:
            self.finish_reason = "stop"
        elif len(self.ids) >= self.sampling.max_new_tokens:
            self.finish_reason = "length"


def _streams_of(group: Group, plan: RowPlan) -> list[StreamRow]:
    """The streams of a group that a request runs, in the group's order."""
    wanted = sorted({i for name, i in group.index.items() if name in plan.prompts})
    coefficients = group.coefficients(plan.conditions).tolist()
    named = {i: name for name, i in group.index.items() if name in plan.prompts}
    return [
        StreamRow(i, plan.prompts[named[i]], group.streams[i].vocabulary, tuple(coefficients[i]))
        for i in wanted
    ]


@dataclass
class Crowd:
    """Requests of one caller, of which only so many are queued at once.

    Attributes:
        most: that are queued or run at once.
        queued: that are, or do, now.
        later: keys and plans of the others.
    """

    most: int
    queued: int = 0
    later: deque[tuple[int, RowPlan]] = field(default_factory=deque)


@dataclass(frozen=True)
class Pushed:
    """What a step gave to one request.

    Attributes:
        row: the request, which goes on while this is read.
        ids: its new tokens.
        reports: one per new token, where the request asked for them.
        finish_reason: if these are the last ones.
        counts: tokens so far that were gated, drafted and accepted, by these names.
    """

    row: Row
    ids: Sequence[int]
    reports: Sequence[TokenReport]
    finish_reason: FinishReason | None
    counts: Mapping[str, int]

    @classmethod
    def of(cls, row: Row, ids: Sequence[int] = (), reports: Sequence[TokenReport] = ()) -> Pushed:
        """What a request has been given, as it stands now."""
        counts = {"gated": row.gated, "drafted": row.drafted, "accepted": row.accepted}
        return cls(row, ids, reports, row.finish_reason, counts)
