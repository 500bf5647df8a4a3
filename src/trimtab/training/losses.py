"""Preference losses as pure functions of rewards. B pairs, one loss each; rewards in nats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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


def lambda_returns(values: Sequence[float], score: float, decay: float) -> list[float]:
    """TD(λ) returns after each token of one response, whose only reward is its score.

    `G_t = (1 − λ) V_{t+1} + λ G_{t+1}` without discount (Sutton and Barto, 2nd edition, eq. 12.2;
    VAS, arXiv 2405.06639). The value of the whole response is its score, so `G_T = G_{T−1} = r`:
    with λ = 1 every return is r (Monte Carlo), with λ = 0 each is the next value, and r at the end.

    Args:
        values: the present estimates V_1 … V_T after each token; they get no gradient.
        score: r.
        decay: λ, in [0, 1].

    Returns:
        G_1 … G_T.
    """
    ahead = [*values[1:-1], score]  # what follows token t, as it is known: V_2 … V_{T−1}, r
    returns = [score]
    for value in reversed(ahead[: len(values) - 1]):
        returns.append((1 - decay) * value + decay * returns[-1])
    return returns[::-1]


def value_loss(
    value_M: Tensor, lengths: Sequence[int], scores: Sequence[float], decay: float
) -> Tensor:
    """Squared distance of every token's value from its TD(λ) return, the mean of each response.

    Args:
        value_M: values after all responses' tokens, [M].
        lengths: tokens of each response; they add up to M.
        scores: of each response.
        decay: λ.

    Returns:
        [N] losses.
    """
    losses = []
    for value_T, score in zip(torch.split(value_M, list(lengths)), scores, strict=True):
        returns_T = value_T.new_tensor(lambda_returns(value_T.tolist(), score, decay))
        losses.append((value_T - returns_T).square().mean())
    return torch.stack(losses)


@dataclass(frozen=True)
class ObjectiveLosses:
    """Options of the loss over several objectives.

    Attributes:
        options: per objective, K; they may differ in β.
        weights: per objective, K: what a pair judged on it counts. N / N_i with N_i of N pairs
            judged on it makes all objectives count alike; that is 1 where all pairs are judged on
            all, as in PARM.
        global_weight: λ of UniARM's loss on the preference-weighted label.
    """

    options: Sequence[LossOptions]
    weights: Sequence[float]
    global_weight: float = 0.0


def objectives_loss(
    first_B: Tensor,
    second_B: Tensor,
    verdict_BK: Tensor,
    preference_BK: Tensor,
    losses: ObjectiveLosses,
) -> Tensor:
    """`Σ_i α_i w_i BT_i + λ BT_global` for each pair (PARM, arXiv 2505.06274; UniARM, 2602.09538).

    BT_i is `preference_loss` of the pair as objective i judged it. BT_global takes the soft label
    `z̄ = Σ_i s_i z_i / Σ_i s_i` and `β = Σ_i s_i β_i / Σ_i s_i`, s_i = α_i w_i over the objectives
    that the pair was judged on, and counts `Σ_i s_i`: a pair says nothing about a preference for
    what it was not judged on. With one β for all objectives BT_global *is* the sum before it,
    because both are `−z̄ log σ(βd) − (1 − z̄) log σ(−βd)` times `Σ_i s_i`: λ then only scales the
    loss. How UniARM's own global loss differs is not public.

    Args:
        first_B: reward of the first response of each pair, [B].
        second_B: of the second.
        verdict_BK: 1 where the first is better, 0 where the second is, NaN if not judged, [B, K].
        preference_BK: α, [B, K], or [1, K] for all pairs.
        losses: options, weights, λ.

    Returns:
        [B] losses.
    """
    known_BK = ~verdict_BK.isnan()
    label_BK = verdict_BK.nan_to_num(0.5)
    share_BK = preference_BK * known_BK * first_B.new_tensor(list(losses.weights))
    total_B = torch.zeros_like(first_B)
    for i, options in enumerate(losses.options):
        own_B = _soft_loss(first_B, second_B, label_BK[:, i], options)
        total_B = total_B + share_BK[:, i] * own_B
    if not losses.global_weight:
        return total_B
    mass_B = share_BK.sum(-1)
    mean_BK = share_BK / mass_B[:, None].clamp(min=1e-9)
    beta_B = mean_BK @ mean_BK.new_tensor([options.beta for options in losses.options])
    soft_B = (mean_BK * label_BK).sum(-1)
    options = replace(losses.options[0], beta=1.0)
    global_B = _soft_loss(beta_B * first_B, beta_B * second_B, soft_B, options)
    return total_B + losses.global_weight * mass_B * global_B


def _soft_loss(first_B: Tensor, second_B: Tensor, label_B: Tensor, options: LossOptions) -> Tensor:
    """The loss of a pair whose first response is better with this probability."""
    better_B = preference_loss(first_B, second_B, options)
    return label_B * better_B + (1 - label_B) * preference_loss(second_B, first_B, options)
