"""Preference losses as pure functions of rewards. B pairs, one loss each; rewards in nats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

LossType = Literal["sigmoid", "hinge"]


@dataclass(frozen=True)
class LossOptions:
    """Options of the preference loss; the defaults are GenARM's.

    Attributes:
        beta: β_r, what a nat of reward difference counts.
        margin: γ, subtracted from the scaled difference.
        label_smoothing: share of labels taken as flipped, in [0, 0.5).
        loss_type: `sigmoid` (Bradley-Terry) or `hinge`.
        length_normalize: rewards per token instead of per response.
    """

    beta: float = 0.05
    margin: float = 0.0
    label_smoothing: float = 0.0
    loss_type: LossType = "sigmoid"
    length_normalize: bool = False


def preference_loss(chosen_B: Tensor, rejected_B: Tensor, options: LossOptions) -> Tensor:
    """`−log σ(β (r_chosen − r_rejected) − γ)` for each pair (GenARM, arXiv 2410.08193, eq. 6).

    With r the sum of the response's token log-probs this is DPO with a uniform reference; with r a
    scalar head it is the Bradley-Terry loss of a trajectory-level reward model.

    Args:
        chosen_B: reward of the better response of each pair, [B].
        rejected_B: reward of the worse one, [B].
        options: β, margin, smoothing, loss type.

    Returns:
        [B] losses.
    """
    difference_B = options.beta * (chosen_B - rejected_B) - options.margin
    if options.loss_type == "hinge":
        return torch.relu(1 - difference_B)
    smoothing = options.label_smoothing
    return -(
        (1 - smoothing) * functional.logsigmoid(difference_B)
        + smoothing * functional.logsigmoid(-difference_B)
    )


def response_rewards(
    logp_M: Tensor, row_M: Tensor, rows: int, *, length_normalize: bool = False
) -> Tensor:
    """Token log-probs summed (or averaged) per response: `r(x, y) = Σ_t log π_r(y_t | x, y_<t)`.

    Args:
        logp_M: log-probs of all response tokens of the batch, [M].
        row_M: the row each belongs to, [M].
        rows: number of rows.
        length_normalize: divide by the number of tokens.

    Returns:
        [rows] rewards in nats.
    """
    sums = logp_M.new_zeros(rows).index_add(0, row_M, logp_M)
    if not length_normalize:
        return sums
    counts = logp_M.new_zeros(rows).index_add(0, row_M, torch.ones_like(logp_M))
    return sums / counts.clamp(min=1)
