"""The heart: how the streams' distributions become the next token. Pure tensor rules.

Axes: B batch (rows), V vocabulary, K objectives (ARM streams). Log-probs are natural logs (nats),
float32. `-inf` marks a token that cannot occur.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEVER = float("-inf")


def log_softmax(logits_BV: Tensor, vocabulary: int | None = None) -> Tensor:
    """Log-probs of one stream, in float32, over the first `vocabulary` entries.

    The logits are cut *before* the softmax, so the padding of an LM head takes no mass; half
    precision would lose the tail.
    """
    return logits_BV[..., :vocabulary].float().log_softmax(-1)


def fuse(logp_base_BV: Tensor, logp_arms_KBV: Tensor, weights_BK: Tensor) -> Tensor:
    """Next-token log-probs of the steered model (the rule of GenARM, arXiv 2410.08193, eq. 7).

        log π(v) = log π_b(v) + Σ_i w_i · log π_i(v) − log Z

    Args:
        logp_base_BV: log-probs of the base, [B, V].
        logp_arms_KBV: log-probs of each ARM over the base's vocabulary, [K, B, V].
        weights_BK: w = strength · preference · scale, >= 0, [B, K].

    Returns:
        [B, V] normalised log-probs. A row whose weights are all zero is the base's row, bit for
        bit; an ARM of weight zero has no say, even where it is −inf; −inf of the base stays −inf.
    """
    if logp_arms_KBV.shape[0] == 0:
        return logp_base_BV
    weights_KB1 = weights_BK.t().unsqueeze(-1)
    pull_KBV = torch.where(weights_KB1 == 0, 0.0, weights_KB1 * logp_arms_KBV)
    fused_BV = (logp_base_BV + pull_KBV.sum(0)).log_softmax(-1)
    unsteered_B1 = (weights_BK == 0).all(-1, keepdim=True)
    return torch.where(unsteered_B1, logp_base_BV, fused_BV)


def strength_within(
    logp_base_BV: Tensor, logp_arms_KBV: Tensor, weights_BK: Tensor, budget_B: Tensor
) -> Tensor:
    """How much of its strength each row may keep so that KL(fused || base) stays in a budget.

    With g = Σ_i w_i · log π_i the steered model at a share c of its strength is π_b · exp(c · g)
    / Z; its KL from the base grows with c (its derivative is c · Var(g) under it), so the largest
    c is found by Newton's method, kept inside a bracket.

    Args:
        logp_base_BV: log-probs of the base, [B, V].
        logp_arms_KBV: log-probs of each ARM, [K, B, V].
        weights_BK: w at full strength, [B, K].
        budget_B: nats; infinity for none.

    Returns:
        c in [0, 1], [B]; 1 where the full strength is within the budget. The KL at c is at most
        the budget and, where c is neither 0 nor 1, within a hundredth of it.
    """
    weights_KB1 = weights_BK.t().unsqueeze(-1)
    pull_BV = torch.where(weights_KB1 == 0, 0.0, weights_KB1 * logp_arms_KBV).sum(0)
    low_B, high_B = torch.zeros_like(budget_B), torch.ones_like(budget_B)
    share_B = high_B.clone()
    for step in range(_NEWTON_STEPS):
        fused_BV = (logp_base_BV + share_B[:, None] * pull_BV).log_softmax(-1)
        p_BV = fused_BV.exp()
        possible_BV = p_BV > 0
        kl_B = torch.where(possible_BV, p_BV * (fused_BV - logp_base_BV), 0.0).sum(-1)
        within_B = kl_B <= budget_B
        low_B = torch.where(within_B, share_B, low_B)
        high_B = torch.where(within_B, high_B, share_B)
        if step == 0 and bool((within_B & (budget_B > 0)).all()):
            return share_B
        mean_B1 = torch.where(possible_BV, p_BV * pull_BV, 0.0).sum(-1, keepdim=True)
        spread_BV = torch.where(possible_BV, p_BV * (pull_BV - mean_B1).square(), 0.0)
        slope_B = share_B * spread_BV.sum(-1)
        newton_B = share_B - (kl_B - _AIM * budget_B) / slope_B
        inside_B = (newton_B > low_B) & (newton_B < high_B)
        share_B = torch.where(inside_B, newton_B, (low_B + high_B) / 2)
    return torch.where(budget_B > 0, low_B, 0.0)


_NEWTON_STEPS = 16
_AIM = 0.995  # of the budget: Newton comes down from above and has to arrive below it


def divergence(logp_BV: Tensor, logp_base_BV: Tensor) -> Tensor:
    """KL(fused || base) of each row in nats, [B]."""
    p_BV = logp_BV.exp()
    return torch.where(p_BV > 0, p_BV * (logp_BV - logp_base_BV), 0.0).sum(-1)


def shape(
    logp_BV: Tensor,
    temperature_B: Tensor,
    top_k_B: Tensor,
    top_p_B: Tensor,
    min_p_B: Tensor,
    *,
    filters: bool = True,
) -> Tensor:
    """Temper and filter the fused distribution, each row by its own settings.

    In this order: divide by the temperature, keep the `top_k` likeliest tokens, of those the
    smallest set with at least `top_p` of the mass, of those the tokens with at least `min_p` times
    the largest probability. The likeliest token always stays.

    Args:
        logp_BV: fused log-probs, [B, V].
        temperature_B: > 0; a row to be decoded greedily (0) is passed through at 1.
        top_k_B: number of tokens kept; 0 keeps all.
        top_p_B: in (0, 1]; 1 keeps all.
        min_p_B: in [0, 1]; 0 keeps all.
        filters: False says that no row has any of the three, and saves the sort.

    Returns:
        [B, V] log-probs, normalised over what was kept, −inf elsewhere.
    """
    warm_B1 = torch.where(temperature_B > 0, temperature_B, 1.0).unsqueeze(-1)
    logp_BV = (logp_BV / warm_B1).log_softmax(-1)
    if not filters:
        return logp_BV
    ranked_BV, order_BV = logp_BV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(logp_BV.shape[-1], device=logp_BV.device)
    within_k_BV = (top_k_B.unsqueeze(-1) <= 0) | (rank_V < top_k_B.unsqueeze(-1))
    ranked_BV = ranked_BV.masked_fill(~within_k_BV, NEVER).log_softmax(-1)
    mass_before_BV = ranked_BV.exp().cumsum(-1) - ranked_BV.exp()
    keep_BV = (top_p_B.unsqueeze(-1) >= 1) | (mass_before_BV < top_p_B.unsqueeze(-1))
    keep_BV &= ranked_BV >= ranked_BV[..., :1] + min_p_B.unsqueeze(-1).log()
    keep_BV &= within_k_BV
    keep_BV[..., 0] = True
    kept_BV = torch.zeros_like(keep_BV).scatter(-1, order_BV, keep_BV)
    return logp_BV.masked_fill(~kept_BV, NEVER).log_softmax(-1)


def uniform(seed: int, position: int, lane: int = 0) -> float:
    """The random number in [0, 1) that decides token `position` of the row with this seed.

    A pure function (SplitMix64's output mix over the counters), so a row's draws depend on
    nothing else in the batch and a run can be resumed anywhere.

    Args:
        seed: of the row.
        position: tokens generated before.
        lane: independent numbers for one position: 0 draws the token, others serve speculation.
    """
    mask = (1 << 64) - 1
    start = _mix64((seed ^ (lane * 0xD1342543DE82EF95)) & mask)
    x = (start + (position + 1) * 0x9E3779B97F4A7C15) & mask
    return (_mix64(x) >> 11) / (1 << 53)


def _mix64(x: int) -> int:
    mask = (1 << 64) - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def draw(logp_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Sample one token per row by inverting the CDF at `uniform_B` in [0, 1).

    A token of probability zero is never drawn. The CDF is summed in float64.

    Returns:
        [B] token ids, int64.
    """
    cdf_BV = logp_BV.double().exp().cumsum(-1)
    target_B1 = (uniform_B.double() * cdf_BV[..., -1]).unsqueeze(-1).contiguous()
    token_B = torch.searchsorted(cdf_BV, target_B1, right=True).squeeze(-1)
    total_B1 = cdf_BV[..., -1:].contiguous()
    last_possible_B = torch.searchsorted(cdf_BV, total_B1).squeeze(-1)
    return torch.minimum(token_B, last_possible_B)


def choose(
    logp_BV: Tensor, temperature_B: Tensor, uniform_B: Tensor, *, samples: bool = True
) -> Tensor:
    """Next token of each row from its shaped distribution: drawn, or the likeliest at T = 0.

    Args:
        logp_BV: shaped log-probs, [B, V].
        temperature_B: 0 is greedy.
        uniform_B: in [0, 1).
        samples: False says that every row is greedy, and saves the draw.

    Returns:
        [B] token ids, int64.
    """
    greedy_B = logp_BV.argmax(-1)
    if not samples:
        return greedy_B
    return torch.where(temperature_B > 0, draw(logp_BV, uniform_B), greedy_B)
