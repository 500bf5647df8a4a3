"""Whether to speculate, with what, and what a draft costs on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from trimtab.engines.local.costs import pass_cost, row_cost
from trimtab.engines.local.drafting import ModelDrafter, NgramDrafter, Speculation
from trimtab.engines.local.streams import BASE, DRAFT, Group, Stream
from trimtab.engines.speculation import DraftLength
from trimtab.engines.types import Speculate
from trimtab.errors import ConfigError

SPECULATE = get_args(Speculate)
LONGEST = 8
"""Tokens drafted at most."""
_SMALL = 0.5
"""An ARM drafts if its pass costs less than this share of the pass that verifies."""


def running(mode: Speculate, groups: Sequence[Group], ngram: bool) -> list[Group]:
    """The groups without the drafting stream where nothing will be drafted from it."""
    if mode != "off" and not ngram:
        return list(groups)
    left = [group.without(DRAFT) for group in groups]
    return [group for group in left if group.index]


def speculation(
    mode: Speculate, groups: Sequence[Group], arms: Sequence[str], ngram: bool
) -> Speculation | None:
    """How to speculate with the groups that run; None for token by token.

    Args:
        mode: `auto` may stop drafting where it does not pay, `on` drafts at least one token.
        groups: the base's first.
        arms: names of the ARMs.
        ngram: propose from the text so far even if there is a small ARM.

    Raises:
        ConfigError: `on` for an architecture that cannot take a token back.
    """
    if mode == "off":
        return None
    stuck = [group for group in groups if not group.in_slots]
    if stuck and mode == "auto":
        return None
    if stuck:
        raise ConfigError(
            f"{type(stuck[0].lm).__name__} cannot take drafted tokens back",
            "leave speculation off for this architecture",
        )
    costs = [group.cost for group in groups]
    index = None if ngram else _smallest(groups, costs)
    cost = 0.0 if index is None else costs[index]
    also_guides = index is not None and groups[index].index.keys() != {DRAFT}
    target = sum(costs) - cost
    rows = max(len(group.streams) for group in groups)  # of one request: not of all that run
    per_row = row_cost(groups[0].lm)
    return Speculation(
        NgramDrafter() if index is None else ModelDrafter(index, groups[index], arms),
        lambda: DraftLength(
            longest=LONGEST,
            shortest=1 if mode == "on" else 0,
            verify_cost=rows * per_row,
            draft_cost=cost / target,
            fixed_cost=1 + (cost / target if also_guides else 0.0),
        ),
    )


def _smallest(groups: Sequence[Group], costs: Sequence[float]) -> int | None:
    """The group that drafts: that of the drafting stream, or small ARMs; None if there is none."""
    for index, group in enumerate(groups):
        if DRAFT in group.index:
            return index
    others = [i for i, group in enumerate(groups) if BASE not in group.index]
    best = min(others, key=lambda i: costs[i], default=None)
    return best if best is not None and costs[best] < _SMALL * (sum(costs) - costs[best]) else None


def own_drafter(base: Stream, arms: Sequence[Stream]) -> Stream | None:
    """The backbone of the smallest LoRA ARM, without the LoRA, where it is small beside the base.

    It resembles the base more than the ARM does, and runs in one forward with it.
    """
    small = [arm for arm in arms if arm.adapter is not None and arm.model is not base.model]
    best = min(small, key=lambda arm: pass_cost(arm.model), default=None)
    if best is None or pass_cost(best.model) >= _SMALL * pass_cost(base.model):
        return None
    return replace(best, name=DRAFT, adapter=None)
