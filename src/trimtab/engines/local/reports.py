"""A report of every generated token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.choosing import Fused
from trimtab.engines.local.guided_model import GuidedModel
from trimtab.engines.local.rows import Row
from trimtab.engines.local.transfer import on_device
from trimtab.engines.types import Alternative, TokenReport


def divergences(
    rows: Sequence[Row], tokens: Sequence[Sequence[int]], fused: Fused
) -> list[Sequence[float]]:
    """Nats of the fused distribution from the base's where each row's new tokens come.

    They are 0 without a weight, and not computed; nor where a search watches, which asks nothing of
    them unless the response is given.

    Args:
        rows: B requests.
        tokens: per row, its new tokens.
        fused: of rows x positions.
    """
    positions = len(fused.logp_BV) // max(len(rows), 1)
    steered = [
        any(row.plan.weights) and (row.plan.watch is None or bool(row.plan.given)) for row in rows
    ]
    places = [
        i * positions + m for i, new in enumerate(tokens) if steered[i] for m in range(len(new))
    ]
    if not places:
        return [[0.0] * len(new) for new in tokens]
    fused_NV, base_NV = fused.logp_BV, fused.logp_base_BV
    if len(places) < len(fused_NV):
        at_N = on_device(places, fused_NV.device)
        fused_NV, base_NV = fused_NV[at_N], base_NV[at_N]
    kl_N = fusion.divergence(fused_NV, base_NV).clamp(min=0)
    found: Iterator[float] = iter(kl_N.tolist())
    return [
        [next(found) if own else 0.0 for _ in new] for new, own in zip(tokens, steered, strict=True)
    ]


def record(
    rows: Sequence[Row],
    tokens: Sequence[Sequence[int]],
    reported: Sequence[int],
    fused: Fused,
    kl: Sequence[Sequence[float]],
    model: GuidedModel,
) -> dict[int, list[TokenReport]]:
    """What each stream thought of new tokens.

    Args:
        rows: B requests.
        tokens: per row, its new tokens.
        reported: those of the rows that want a report.
        fused: of rows x positions.
        kl: per row, of each of its tokens (`divergences`).
        model: texts of its tokens and names of the ARMs.

    Returns:
        Per row that wants them, a report of each of its tokens.
    """
    positions = len(fused.logp_BV) // max(len(rows), 1)
    places = [(i, m) for i in reported for m in range(len(tokens[i]))]
    if not places:
        return {}
    device = fused.logp_BV.device
    at_N = torch.tensor([i * positions + m for i, m in places], device=device)
    base_NV, fused_NV, *arms_KNV = (
        logp_BV[at_N] for logp_BV in (fused.logp_base_BV, fused.logp_BV, *fused.logp_arms_KBV)
    )
    own_N1 = torch.tensor([tokens[i][m] for i, m in places], device=device)[:, None]
    wanted = [rows[i].plan.request.alternatives for i, _ in places]
    best_NA = fused_NV.topk(min(max(wanted), fused_NV.shape[-1]), dim=-1).indices
    ids_NA = torch.cat([own_N1, best_NA], dim=-1)
    columns = [_at(logp_NV, ids_NA) for logp_NV in (base_NV, fused_NV, *arms_KNV)]
    means = [fusion.mean_under(arm_NV, base_NV).tolist() for arm_NV in arms_KNV]
    share = fused.share_B[at_N].tolist()
    shut = [False] * len(places) if fused.gated_B is None else fused.gated_B[at_N].tolist()
    reports: dict[int, list[TokenReport]] = {i: [] for i in reported}
    for n, (i, m) in enumerate(places):
        names = [] if shut[n] else list(model.arms)
        row_tokens, *others = [
            Alternative(
                token,
                model.token_texts[token],
                columns[0][n][a],
                {name: rewards[n][a] for name, rewards in zip(names, columns[2:], strict=False)},
                columns[1][n][a],
            )
            for a, token in enumerate(ids_NA[n].tolist())
        ]
        reports[i].append(
            TokenReport(
                **vars(row_tokens),
                mean_rewards={name: mean[n] for name, mean in zip(names, means, strict=False)},
                alternatives=[
                    token for token in others[: wanted[n]] if token.logp_fused > fusion.NEVER
                ],
                strength=share[n] * rows[i].plan.steering.strength,
                kl=kl[i][m],
            )
        )
    return reports


def _at(logp_NV: Tensor, ids_NA: Tensor) -> list[list[float]]:
    return logp_NV.gather(-1, ids_NA).tolist()
