"""From the streams' log-probs to tokens, each row by its own settings.

B rows, M positions per row, K ARMs, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.forwards import Logps
from trimtab.engines.local.rows import Row
from trimtab.engines.local.streams import BASE
from trimtab.engines.local.transfer import on_device
from trimtab.engines.restraints import Restraint
from trimtab.engines.sampling import Sampling


@dataclass(frozen=True)
class Settings:
    """Per-row settings as tensors.

    Attributes:
        weights_BK: fusion weights.
        temperature_B: 0 is greedy.
        top_k_B: 0 keeps all.
        top_p_B: 1 keeps all.
        min_p_B: 0 keeps all.
        budget_B: nats that the fused distribution may be from the base; infinity for none.
        gate_B: log-prob of the base's likeliest token above which the ARMs are not asked; above 0
            for never.
        filters: whether any row filters.
        most: of all rows' `top_k`; 0 where one that samples keeps all.
        samples: whether any row samples.
        budgets: whether any row has a budget.
        gates: whether any row has a gate.
    """

    weights_BK: Tensor
    temperature_B: Tensor
    top_k_B: Tensor
    top_p_B: Tensor
    min_p_B: Tensor
    budget_B: Tensor
    gate_B: Tensor
    filters: bool
    most: int
    samples: bool
    budgets: bool
    gates: bool

    @classmethod
    def of(cls, rows: Sequence[Row], arms: int, device: torch.device) -> Settings:
        """Of some rows."""

        def column(values: Sequence[Any], dtype: torch.dtype = torch.float32) -> Tensor:
            return on_device(values, device, dtype)

        sampled = [row.sampling for row in rows]
        steered = [row.plan.steering for row in rows]
        budgets = [math.inf if s.kl_budget is None else s.kl_budget for s in steered]
        gates = [1.0 if s.gate is None else math.log(s.gate) for s in steered]
        return cls(
            weights_BK=column([row.plan.weights for row in rows]).view(len(rows), arms),
            temperature_B=column([s.temperature for s in sampled]),
            top_k_B=column([_top_k(s) for s in sampled], torch.int64),
            top_p_B=column([s.top_p for s in sampled]),
            min_p_B=column([s.min_p for s in sampled]),
            budget_B=column(budgets),
            gate_B=column(gates),
            filters=any(s.top_k > 0 or s.top_p < 1 or s.min_p > 0 for s in sampled),
            most=_most(sampled),
            samples=any(s.temperature > 0 for s in sampled),
            budgets=any(b < math.inf for b in budgets),
            gates=any(g <= 0 for g in gates),
        )

    def pick(self, rows: Sequence[int]) -> Settings:
        """Those of some rows."""
        if len(rows) == len(self.gate_B):
            return self
        index = on_device(rows, self.gate_B.device)
        return self._each(lambda value: value[index])

    def repeat(self, positions: int) -> Settings:
        """Each row's so many times in a row."""
        return self._each(lambda value: value.repeat_interleave(positions, 0))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Settings:
        tensors: dict[str, Any] = {
            f.name: change(value)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **tensors)


@dataclass(frozen=True)
class Fused:
    """The steered distributions of some rows, [B · M, V], and how they came about.

    Attributes:
        logp_base_BV: the base's log-probs.
        logp_arms_KBV: each ARM's; the base's in their place where all rows were gated.
        logp_BV: fused, before temperature and filters.
        shaped_BV: what tokens are drawn from.
        share_B: how much of its strength each row kept; 0 where its gate was shut.
        gated_B: where a gate was shut; None if no row has one.
    """

    logp_base_BV: Tensor
    logp_arms_KBV: Tensor
    logp_BV: Tensor
    shaped_BV: Tensor
    share_B: Tensor
    gated_B: Tensor | None


def _top_k(sampling: Sampling) -> int:
    """Tokens that are kept; a greedy row needs one."""
    return sampling.top_k if sampling.temperature > 0 else 1


def _most(sampled: Sequence[Sampling]) -> int:
    kept = [_top_k(s) for s in sampled]
    return max(kept) if all(kept) else 0


def gated(logp_base_BMV: Tensor, gate_B: Tensor) -> Tensor:
    """Positions where the base is more certain than its row's gate, [B, M]."""
    return logp_base_BMV.amax(-1) > gate_B[:, None]


def fuse(
    settings: Settings,
    logps: Logps,
    arms: Sequence[str],
    *,
    forward_kl: bool = False,
    restraints: Sequence[tuple[int, Restraint]] = (),
) -> Fused:
    """Fuse, within budget and gate, and shape.

    Args:
        settings: of the rows, each repeated for its positions.
        logps: of the base for all rows, and of the ARMs for those that run them.
        arms: names of the ARMs in the order of the weights.
        forward_kl: the ARMs are policies that the forward KL's mean joins.
        restraints: places among the B · M, each with the restraint on what is drawn there.
    """
    base_BMV = logps[BASE].logp_NMV
    base_BV = base_BMV.flatten(0, 1)
    device = base_BV.device
    arm_logps = [
        logps[name].of_all(base_BMV).flatten(0, 1) if name in logps else base_BV for name in arms
    ]
    arms_KBV = torch.stack(arm_logps) if arm_logps else base_BV.new_zeros(0, *base_BV.shape)
    weights_BK = settings.weights_BK
    share_B = torch.ones(len(base_BV), device=device)
    shut_B = None
    if settings.gates:
        shut_B = gated(base_BV[:, None], settings.gate_B)[:, 0]
        share_B = 1.0 - shut_B.float()
        weights_BK = weights_BK * share_B[:, None]
    pulling_KBV = arms_KBV
    if forward_kl:
        pulling_KBV, weights_BK = fusion.forward_mean(arms_KBV, weights_BK)
    if settings.budgets and arm_logps:
        some = settings.budget_B < math.inf
        kept_B = torch.ones_like(share_B)
        kept_B[some] = fusion.strength_within(
            base_BV[some], pulling_KBV[:, some], weights_BK[some], settings.budget_B[some]
        )
        share_B, weights_BK = share_B * kept_B, weights_BK * kept_B[:, None]
    logp_BV = fusion.fuse(base_BV, pulling_KBV, weights_BK)
    drawn_BV = logp_BV.clone() if restraints else logp_BV
    for place, restraint in restraints:
        drawn_BV[place] = restraint.on(logp_BV[place])
    shaped_BV = shape(settings, drawn_BV)
    return Fused(base_BV, arms_KBV, logp_BV, shaped_BV, share_B, shut_B)


def broken_streams(fused: Fused, at: Sequence[int], arms: Sequence[str]) -> list[list[str]]:
    """Streams whose log-probs are no numbers: a token would be chosen, and mean nothing.

    Args:
        fused: of rows x positions.
        at: the places among them that are looked at.
        arms: names of the ARMs.

    Returns:
        Per place, names; `mixture` where none of the streams is to blame.
    """
    # one NaN among the logits makes all log-probs NaN
    streams = [fused.logp_BV, fused.logp_base_BV, *fused.logp_arms_KBV]
    nan_SN = torch.stack([logp_BV[at, 0] for logp_BV in streams]).isnan()
    if not bool(nan_SN[0].any()):
        return [[] for _ in at]
    return [
        [name for name, nan in zip((BASE, *arms), each, strict=True) if nan] or ["mixture"]
        if broken
        else []
        for broken, *each in nan_SN.t().tolist()
    ]


def shape(settings: Settings, logp_BV: Tensor) -> Tensor:
    """Temper and filter each row by its settings; neither changes what greedy rows choose."""
    if not settings.samples:
        return logp_BV
    return fusion.shape(
        logp_BV,
        settings.temperature_B,
        settings.top_k_B,
        settings.top_p_B,
        settings.min_p_B,
        filters=settings.filters,
        most=settings.most,
    )


def uniforms(rows: Sequence[Row], positions: int, device: torch.device, ahead: int = 0) -> Tensor:
    """Each row's random numbers for its next positions, [B, M] float64."""
    steps = range(ahead, ahead + positions)
    values = [
        [fusion.uniform(row.sampling.seed or 0, row.position + m) for m in steps] for row in rows
    ]
    return on_device(values, device, torch.float64)
