"""What runs: a request, and what a step gave to it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from trimtab.engines.local.drafts import RowDrafts
from trimtab.engines.local.stream_rows import StreamRow, own_ids
from trimtab.engines.local.streams import BASE, Group
from trimtab.engines.restraints import Restraint
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import FinishReason, Request, TokenReport
from trimtab.steering import Steering


@dataclass(frozen=True)
class Watch:
    """What a search wants of a request beside its tokens.

    Attributes:
        rewards: the reward of every token under every guide.
        entropy: nats; the request pauses before a token whose fused distribution, before
            temperature and filters, has so much or more. 0 pauses at once, infinity never.
        after: tokens that it has before it may pause.
    """

    rewards: bool = False
    entropy: float = math.inf
    after: int = 0


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
        begun: tokens that the response has already, in the base's ids; more follow, with the random
            numbers of their places.
        watch: what else is wanted of it; then no text is made of its tokens.
        given: tokens that it is to have, in the base's ids: none is drawn, what the streams say of
            each is.
        restraint: what its tokens are chosen by beside the fused distribution, as it begins.
    """

    request: Request
    steering: Steering
    sampling: Sampling
    weights: list[float]
    prompts: Mapping[str, list[int]]
    conditions: Mapping[str, Sequence[float]] = field(default_factory=dict)
    begun: Sequence[int] = ()
    watch: Watch | None = None
    given: Sequence[int] = ()
    restraint: Restraint | None = None

    def of_the_base(self, *, guides_run: bool = False) -> RowPlan:
        """The same request at strength 0: guides do not run, or run and have no say."""
        prompts = self.prompts if guides_run else {BASE: self.prompts[BASE]}
        steering = replace(self.steering, strength=0.0)
        return replace(self, steering=steering, weights=[0.0] * len(self.weights), prompts=prompts)

    @property
    def length(self) -> int:
        """Tokens that the longest stream may come to."""
        begun = len(self.begun)
        return max(map(len, self.prompts.values())) + begun + self.sampling.max_new_tokens


class Row:
    """A request that is being answered.

    Attributes:
        crowd: that it is one of; None for a request by itself.
        restraint: on its next token, where it has one.
        ids: generated so far, in the base's vocabulary.
        streams: per group, the streams that this request runs.
        prefilling: whether its prompt has still to be read.
        prefix_of: another row whose prompt begins like this one's, and how far; its reading is
            worth waiting for.
        starved: tokens that it had when it was last put off for want of memory, running alone.
        finish_reason: set at the end.
        error: what went wrong with this request alone.
        refused: whether that is its own fault.
        read: tokens that were computed for it: of the base, and of all other streams.
        passes: steps that it had a part in.
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
        self.restraint = plan.restraint and plan.restraint.begun(plan.begun)
        self.ids: list[int] = []
        self.gated = self.drafted = self.accepted = 0
        self.finish_reason: FinishReason | None = None
        self.error, self.refused = "", False
        self.starved = -1
        self.read = [0, 0]
        self.passes = 0
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

    @property
    def position(self) -> int:
        """Tokens of the response so far."""
        return len(self.plan.begun) + len(self.ids)

    def push(self, token: int, ends: frozenset[int]) -> None:
        """Take one token; sets `finish_reason` at the end."""
        self.ids.append(token)
        if self.restraint:
            self.restraint.take(token)
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
    rows = [
        StreamRow(i, plan.prompts[named[i]], group.streams[i].vocabulary, tuple(coefficients[i]))
        for i in wanted
    ]
    for row in rows:
        row.sequence += own_ids(plan.begun, row.vocabulary)
    return rows


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
class Seen:
    """What was watched of a request in one step.

    Attributes:
        rewards_NK: of its new tokens, under each guide, nats; empty unless they are wanted.
        logp_V: fused log-probs of the token before which it paused; None if it goes on.
        rewards_KV: what the guides give that token.
        likelihoods_N4: of its new tokens, where they were given: fused log-prob, the base's, KL of
            the fused distribution from the base's (all nats), and whether it is the likeliest.
    """

    rewards_NK: Sequence[Sequence[float]] = ()
    logp_V: Tensor | None = None
    rewards_KV: Tensor | None = None
    likelihoods_N4: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class Pushed:
    """What a step gave to one request.

    Attributes:
        row: the request, which goes on while this is read.
        ids: its new tokens.
        reports: one per new token, where the request asked for them.
        finish_reason: if these are the last ones.
        counts: tokens so far that were gated, drafted and accepted, by these names.
        kl: nats that the fused distribution of each new token was from the base's.
        seen: of a request that is watched.
    """

    row: Row
    ids: Sequence[int]
    reports: Sequence[TokenReport]
    finish_reason: FinishReason | None
    counts: Mapping[str, int]
    kl: Sequence[float] = ()
    seen: Seen | None = None

    @classmethod
    def of(
        cls,
        row: Row,
        ids: Sequence[int] = (),
        reports: Sequence[TokenReport] = (),
        seen: Seen | None = None,
        kl: Sequence[float] = (),
    ) -> Pushed:
        """What a request has been given, as it stands now."""
        counts = {"gated": row.gated, "drafted": row.drafted, "accepted": row.accepted}
        return cls(row, ids, reports, row.finish_reason, counts, kl, seen)
