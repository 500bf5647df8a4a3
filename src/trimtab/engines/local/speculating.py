"""Who drafts for an engine, and what it has learned of whether that pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from trimtab.engines.local.drafting import Drafter, ModelDrafter, NgramDrafter
from trimtab.engines.local.drafts import LONGEST, DraftRates, PassCosts, RowDrafts, Wish
from trimtab.engines.local.guided_model import GuidedModel
from trimtab.engines.local.rows import Row
from trimtab.engines.local.streams import BASE, DRAFT, Stream, pass_cost
from trimtab.engines.types import Speculate
from trimtab.errors import ConfigError

SPECULATE = get_args(Speculate)
_SMALL = 0.5
"""A model drafts if its pass costs less than this share of the pass that verifies."""
_TOKEN_RATIO = {"cpu": 0.08, "cuda": 0.01}
"""What one more token adds to a pass, as a share of the fixed part, until it is measured."""


class Speculation:
    """Drafts for the requests that want it.

    Args:
        model: what is steered, and its guides.
        ngram: propose from the text so far even if there is a small model.
    """

    def __init__(self, model: GuidedModel, *, ngram: bool) -> None:
        groups = model.groups
        sizes = [group.cost for group in groups]
        index = None if ngram else _smallest(model, sizes)
        self.drafter: Drafter = (
            NgramDrafter() if index is None else ModelDrafter(index, groups[index], model)
        )
        self._stuck = [group for group in groups if not group.packable]
        self._draft_share = 0.0 if index is None else sizes[index] / (sum(sizes) - sizes[index])
        kind = "cpu" if groups[0].device.type == "cpu" else "cuda"
        self._costs, self._rates = PassCosts(_TOKEN_RATIO[kind]), DraftRates()

    def of_row(self, mode: Speculate) -> RowDrafts | None:
        """For a new request; None if it decodes token by token.

        Raises:
            ConfigError: `on` for an architecture that cannot take a token back.
        """
        if mode not in SPECULATE:
            raise ConfigError(f"speculate is {mode!r}", f"it is one of {', '.join(SPECULATE)}")
        if mode == "on" and self._stuck:
            raise ConfigError(
                f"{type(self._stuck[0].lm).__name__} cannot take drafted tokens back",
                "leave speculation off for this architecture",
            )
        if mode == "off" or self._stuck:
            return None
        return RowDrafts(self._rates.new_row(), 1 if mode == "on" else 0)

    def wish(self, row: Row, most: int) -> Wish:
        """What could be drafted for a row, at most so many tokens."""
        assert row.drafts is not None
        offer = self.drafter.offer(row, min(most, LONGEST))
        row.drafts.kind = offer.kind
        rate = row.drafts.rates.kinds[offer.kind].rate
        return Wish(rate, offer.most, sum(map(len, row.streams)), row.drafts.least)

    def costs(self) -> tuple[tuple[float, float], float]:
        """Of a pass: (fixed, per token); and of one pass of the model that drafts. Seconds."""
        line = self._costs.line
        return line, self._draft_share * line[0]

    def learn(self, row: Row, kept: int, drafted: int) -> None:
        """Take in what a round kept of a row's drafts."""
        if row.drafts is not None:
            for rates in (row.drafts.rates, self._rates):
                rates.learn(row.drafts.kind, kept, drafted)

    def timed(self, rows: Sequence[Row], drafts: Sequence[Sequence[int]], seconds: float) -> None:
        """Take in how long a step took that read no prompt."""
        counts = [1 + len(ids) for ids in drafts]
        longest = max(counts) - 1
        tokens = sum(n * sum(map(len, r.streams)) for n, r in zip(counts, rows, strict=True))
        self._costs.learn(tokens, seconds / (1 + longest * self._draft_share))


def _smallest(model: GuidedModel, sizes: Sequence[float]) -> int | None:
    """The group that drafts: that of the drafting stream, or small ARMs; None if there is none."""
    for index, group in enumerate(model.groups):
        if DRAFT in group.index:
            return index
    arms = {*model.arms} - {*model.references}
    others = [
        i
        for i, group in enumerate(model.groups)
        if BASE not in group.index and arms & {*group.index}
    ]
    best = min(others, key=lambda i: sizes[i], default=None)
    return best if best is not None and sizes[best] < _SMALL * (sum(sizes) - sizes[best]) else None


def own_drafter(base: Stream, arms: Sequence[Stream]) -> Stream | None:
    """The backbone of the smallest LoRA ARM, without the LoRA, where it is small beside the base.

    It resembles the base more than the ARM does, and runs in one forward with it.
    """
    small = [arm for arm in arms if arm.adapter is not None and arm.model is not base.model]
    best = min(small, key=lambda arm: pass_cost(arm.model), default=None)
    if best is None or pass_cost(best.model) >= _SMALL * pass_cost(base.model):
        return None
    return replace(best, name=DRAFT, adapter=None, reference=None)
