"""One request: what was asked, and what has been generated so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from trimtab.engines.local.slots import own_ids
from trimtab.engines.local.streams import Group
from trimtab.engines.speculation import DraftLength
from trimtab.engines.text import TextStream
from trimtab.engines.types import Completion, Request, Sampling, TokenReport
from trimtab.models.protocols import Tokenizer
from trimtab.steering import Steering


@dataclass(frozen=True)
class RowPlan:
    """One request, checked and tokenised.

    Attributes:
        request: as it was given.
        steering: its validated preference, strength, KL budget and gate.
        weights: fusion weight per ARM, [K].
        conditions: ARM name -> the preference inside it, for conditioned ARMs.
        prompts: stream name -> the prompt's ids in its own template.
    """

    request: Request
    steering: Steering
    weights: list[float]
    prompts: dict[str, list[int]]
    conditions: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens that the longest stream may come to."""
        return max(map(len, self.prompts.values())) + self.request.sampling.max_new_tokens


class Row:
    """A request that is being answered.

    Attributes:
        ids: generated so far, in the base's vocabulary.
        sequences: per group and stream, its prompt and all that was generated, in its own ids.
        prefix_of: another row whose prompt begins like this one's, and how far; its reading is
            worth waiting for.
    """

    def __init__(
        self,
        key: int,
        plan: RowPlan,
        groups: Sequence[Group],
        tokenizer: Tokenizer,
        drafts: DraftLength,
    ) -> None:
        self.key, self.plan, self.drafts = key, plan, drafts
        self.sampling: Sampling = plan.request.sampling
        self.ids: list[int] = []
        self.reports: list[TokenReport] = []
        self.gated = self.drafted = self.accepted = 0
        self.finish_reason: Literal["stop", "length"] | None = None
        self.prefilling = True
        self.prefix_of: tuple[Row, int] | None = None
        self.sequences = [[list(plan.prompts[s.name]) for s in g.streams] for g in groups]
        self._groups = groups
        self._text = TextStream(tokenizer, self.sampling.stop)

    def push(self, token: int, ends: frozenset[int]) -> str:
        """Take one token; returns the text it releases and sets `finish_reason` at the end."""
        self.ids.append(token)
        for group, sequences in zip(self._groups, self.sequences, strict=True):
            for stream, sequence in zip(group.streams, sequences, strict=True):
                sequence += own_ids([token], stream.vocabulary)
        if token in ends and not self.sampling.ignore_eos:
            self.finish_reason = "stop"
            return self._text.finish()
        released = self._text.push(token)
        if not self._text.stopped and len(self.ids) >= self.sampling.max_new_tokens:
            released += self._text.finish()
            self.finish_reason = "length"
        if self._text.stopped:
            self.finish_reason = "stop"
        return released

    def completion(self) -> Completion:
        """The finished response."""
        assert self.finish_reason is not None
        steering = self.plan.steering
        return Completion(
            self._text.text,
            self.ids,
            self.finish_reason,
            steering.preference,
            steering.strength,
            self.reports,
            gated=self.gated,
            drafted=self.drafted,
            accepted=self.accepted,
        )
