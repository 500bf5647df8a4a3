"""Whether to speculate, with what, and what a draft costs on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from trimtab.engines.local.drafting import DRAFT, NGRAM, ModelDrafter, NgramDrafter
from trimtab.engines.local.scheduler import Speculation
from trimtab.engines.local.streams import BASE, Group
from trimtab.engines.speculation import DraftLength
from trimtab.errors import ConfigError

__all__ = ["DRAFT", "NGRAM", "SPECULATE", "Speculate", "speculation"]

Speculate = Literal["off", "on", "auto"]
SPECULATE = ("off", "on", "auto")
LONGEST = 8
"""Tokens drafted at most."""
_SMALL = 0.5
"""An ARM drafts if its pass costs less than this share of the pass that verifies."""


def speculation(
    mode: Speculate, groups: Sequence[Group], arms: Sequence[str], slots: int, ngram: bool
) -> Speculation | None:
    """How to speculate with these groups; None for token by token.

    Args:
        mode: `auto` may stop drafting where it does not pay, `on` drafts at least one token.
        groups: the base's first, a draft model's last.
        arms: names of the ARMs.
        slots: requests that run together.
        ngram: propose from the text so far even if there is a small ARM.

    Raises:
        ConfigError: `on` for an architecture that cannot take a token back.
    """
    if mode == "off":
        return None
    stuck = [group for group in groups if not group.in_slots]
    if stuck:
        if mode == "auto":
            return None
        raise ConfigError(
            f"{type(stuck[0].lm).__name__} cannot take drafted tokens back",
            "leave speculation off for this architecture",
        )
    drafter = NgramDrafter() if ngram else _drafter(groups, arms)
    costs = [_pass_cost(group) for group in groups]
    own = costs[drafter.group] if drafter.group is not None else 0.0
    is_arm = drafter.group is not None and DRAFT not in groups[drafter.group].index
    target = sum(c for c, g in zip(costs, groups, strict=True) if DRAFT not in g.index)
    target -= own if is_arm else 0.0
    rows = slots * max(len(group.streams) for group in groups)
    per_row = _ROW[_kind(groups[0])]
    return Speculation(
        drafter,
        lambda: DraftLength(
            longest=LONGEST,
            shortest=1 if mode == "on" else 0,
            verify_cost=rows * per_row,
            draft_cost=own / target,
            fixed_cost=1 + (own / target if is_arm else 0.0),
        ),
    )


def _drafter(groups: Sequence[Group], arms: Sequence[str]) -> Any:
    """A draft model if there is one; else the smallest ARM that is small; else the text so far."""
    for index, group in enumerate(groups):
        if DRAFT in group.index:
            return ModelDrafter(index, group, arms)
    costs = {i: _pass_cost(g) for i, g in enumerate(groups) if BASE not in g.index}
    if costs:
        best = min(costs, key=lambda i: costs[i])
        rest = sum(map(_pass_cost, groups)) - costs[best]
        if costs[best] < _SMALL * rest:
            return ModelDrafter(best, groups[best], arms)
    return NgramDrafter()


# A pass takes its weights' bytes over the bandwidth and a fixed time per layer. Only ratios matter,
# and they must not be measured while decoding: what is drafted decides which random numbers are
# used, so the same seed would no longer give the same tokens.
_SECONDS_PER_BYTE = {"cpu": 1 / 20e9, "cuda": 1 / 1.5e12}
_SECONDS_PER_LAYER = {"cpu": 0.25e-3, "cuda": 0.15e-3}
_ROW = {"cpu": 0.03, "cuda": 0.002}
"""What one more row adds to a pass, as a share of it."""


def _pass_cost(group: Group) -> float:
    """Seconds that one pass of a group takes, roughly."""
    kind = _kind(group)
    layers = int(getattr(group.lm.config.get_text_config(), "num_hidden_layers", 1))
    return float(group.weight_bytes * _SECONDS_PER_BYTE[kind] + layers * _SECONDS_PER_LAYER[kind])


def _kind(group: Group) -> str:
    return "cpu" if group.device.type == "cpu" else "cuda"
