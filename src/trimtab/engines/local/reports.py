"""A report of every generated token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trimtab import fusion
from trimtab.engines.local.choosing import Fused
from trimtab.engines.local.rows import Row
from trimtab.engines.types import TokenReport


def record(
    rows: Sequence[Row | None],
    tokens: Sequence[Sequence[int]],
    fused: Fused,
    positions: int,
    fleet: Any,
) -> None:
    """Note what each stream thought of each row's new tokens.

    Args:
        rows: None where a slot is empty.
        tokens: per row, its new tokens; at most `positions`.
        fused: of rows x positions.
        positions: M.
        fleet: tokenizer and names of the ARMs.
    """
    places = [
        (row, token, i * positions + m)
        for i, (row, own) in enumerate(zip(rows, tokens, strict=True))
        for m, token in enumerate(own)
        if row
    ]
    device = fused.logp_BV.device
    at_N = torch.tensor([place for _, _, place in places], device=device)
    token_N1 = torch.tensor([token for _, token, _ in places], device=device)[:, None]
    columns = [
        logp_BV[at_N].gather(-1, token_N1).squeeze(-1).tolist()
        for logp_BV in (fused.logp_base_BV, fused.logp_BV, *fused.logp_arms_KBV)
    ]
    share = fused.share_B[at_N].tolist()
    shut = [False] * len(places) if fused.gated_B is None else fused.gated_B[at_N].tolist()
    kl = fusion.divergence(fused.logp_BV[at_N], fused.logp_base_BV[at_N]).tolist()
    for n, (row, token, _) in enumerate(places):
        base, of_fused, *rewards = [column[n] for column in columns]
        row.reports.append(
            TokenReport(
                token,
                fleet.tokenizer.decode([token]),
                base,
                dict(zip(fleet.arms, rewards, strict=True)) if not shut[n] else {},
                of_fused,
                strength=share[n] * row.plan.steering.strength,
                kl=kl[n],
            )
        )
