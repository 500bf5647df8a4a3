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
        logp_arms_KBV: log-probs of each ARM over the base's vocabulary, [K, B, V]; of other guides
            their `contrast`.
        weights_BK: w = strength · preference · scale, [B, K].

    Returns:
        [B, V] normalised log-probs. A row whose weights are all zero is the base's row, bit for
        bit; an ARM of weight zero has no say, even where it is −inf; −inf of the base stays −inf;
        where base and ARMs share no token, the row is the base's.
    """
    if logp_arms_KBV.shape[0] == 0:
        return logp_base_BV
    mixed_BV = logp_base_BV + _pull(logp_arms_KBV, weights_BK)
    unsteered_B1 = (weights_BK == 0).all(-1, keepdim=True)
    return torch.where(unsteered_B1, logp_base_BV, normalised(mixed_BV, logp_base_BV))


def normalised(mixed_BV: Tensor, otherwise_BV: Tensor) -> Tensor:
    """`mixed_BV` as log-probs; `otherwise_BV`'s rows where nothing is possible, [B, V]."""
    empty_B1 = mixed_BV.amax(-1, keepdim=True) == NEVER
    return torch.where(empty_B1, otherwise_BV, mixed_BV.log_softmax(-1))


def _pull(logp_arms_KBV: Tensor, weights_BK: Tensor) -> Tensor:
    """Σ_i w_i · log π_i(v), [B, V]: 0 for w = 0, never +inf."""
    pull_BV = torch.zeros_like(logp_arms_KBV[0])
    for logp_BV, weight_B1 in zip(logp_arms_KBV, weights_BK.t().unsqueeze(-1), strict=True):
        term_BV = torch.where(weight_B1 == 0, 0.0, weight_B1 * logp_BV)
        # +inf is w < 0 times −inf; a NaN is a broken model's, and stays
        pull_BV += term_BV.nan_to_num_(nan=torch.nan, posinf=0.0, neginf=NEVER)
    return pull_BV


def contrast(logp_BV: Tensor, reference_BV: Tensor) -> Tensor:
    """The reward log π_i − log π_ref of a guide that is set against a reference.

    Args:
        logp_BV: log-probs of the guide's stream, [B, V].
        reference_BV: of its reference, [B, V].

    Returns:
        [B, V]; 0 for a token that the reference cannot give, −inf for one that the guide's stream
        alone cannot. Never +inf.
    """
    return torch.where(reference_BV == NEVER, 0.0, logp_BV - reference_BV)


def forward_mean(rewards_KBV: Tensor, weights_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Policies under one preference as a single one: the forward KL's mean.

    MOD (Shi et al., arXiv 2406.18853) with the forward KL gives `1 / Σ_i α_i / π_i`, up to
    normalisation. Of rewards against one base that is `−logsumexp(−c_i + log α_i)`.

    Args:
        rewards_KBV: c_i = log π_i − log π_b of each policy, [K, B, V].
        weights_BK: strength · α_i, [B, K].

    Returns:
        The one reward, [1, B, V], and its weight, the strength, [B, 1].
    """
    total_B1 = weights_BK.sum(-1, keepdim=True)
    share_KB1 = (weights_BK / total_B1.clamp(min=_SMALLEST)).t().unsqueeze(-1)
    terms_KBV = torch.where(share_KB1 > 0, share_KB1.log() - rewards_KBV, NEVER)
    mean_BV = -terms_KBV.logsumexp(0)
    return mean_BV.nan_to_num(nan=torch.nan, posinf=0.0, neginf=NEVER)[None], total_B1


_SMALLEST = 1e-30


def contrastive(
    logp_base_BV: Tensor, logp_amateur_BV: Tensor, penalty: float, plausibility: float
) -> Tensor:
    """The reward of contrastive decoding: `−c · log π_a` where the base finds a token plausible.

    Args:
        logp_base_BV: log-probs of the base, the expert, [B, V].
        logp_amateur_BV: of the amateur, [B, V].
        penalty: c.
        plausibility: α, share of the base's largest probability.

    Returns:
        [B, V]; −inf where it is not plausible, and 0 for a token that the amateur cannot give.
    """
    least_B1 = logp_base_BV.amax(-1, keepdim=True) + torch.tensor(plausibility).log()
    reward_BV = torch.where(logp_amateur_BV == NEVER, 0.0, -penalty * logp_amateur_BV)
    return torch.where(logp_base_BV >= least_B1, reward_BV, NEVER)


def strength_within(
    logp_base_BV: Tensor, logp_arms_KBV: Tensor, weights_BK: Tensor, budget_B: Tensor
) -> Tensor:
    """How much of its strength each row may keep so that KL(fused || base) stays in a budget.

    With g = Σ_i w_i · log π_i the steered model at a share c of its strength is π_b · exp(c · g)
    / Z. Over the tokens that both allow its KL grows with c: c · dKL/dc = c² · Var(g) under it, so
    that log KL over log c has a slope between 2 (c small) and 0 (c large), and Newton's method in
    these coordinates, kept inside a bracket, does not depend on the strength. The bracket begins
    where KL <= (c · range(g))² / 8 (Hoeffding's lemma) is the budget.

    Args:
        logp_base_BV: log-probs of the base, [B, V].
        logp_arms_KBV: log-probs of each ARM, [K, B, V].
        weights_BK: w at full strength, [B, K].
        budget_B: nats; infinity for none.

    Returns:
        c in [0, 1], [B]; 1 where the full strength is within the budget. The KL at c is at most
        the budget and, where c is neither 0 nor 1, within a thousandth of what the budget leaves
        after the tokens that an ARM forbids at any strength.
    """
    base_BV = logp_base_BV.double().log_softmax(-1)
    pull_BV = _pull(logp_arms_KBV, weights_BK).double()
    possible_BV = (base_BV > NEVER) & (pull_BV > NEVER)
    base_BV = torch.where(possible_BV, base_BV, NEVER)
    lost_B = (-base_BV.logsumexp(-1)).clamp(min=0)  # the KL is this and more for all c > 0
    room_B = torch.where(budget_B > 0, budget_B.double() - lost_B, 0.0)
    most_B = torch.where(possible_BV, pull_BV, NEVER).amax(-1)
    range_B = (most_B - torch.where(possible_BV, pull_BV, -NEVER).amin(-1)).clamp(min=0)
    pull_BV = torch.where(possible_BV, pull_BV, 0.0)
    share_B = _largest_share(base_BV.log_softmax(-1), pull_BV, room_B, range_B)
    apart_B = lost_B.isinf() & (budget_B > 0)  # they share no token: fused is the base
    return torch.where(apart_B, 1.0, share_B).to(budget_B.dtype)


def _largest_share(base_BV: Tensor, pull_BV: Tensor, room_B: Tensor, range_B: Tensor) -> Tensor:
    """The largest c in [0, 1] at which the KL is within the room, [B]; 0 where there is no room.

    Full strength is tried first; after that only the rows that are over their room go on.
    """
    share_B = torch.zeros_like(room_B)
    left_B = torch.arange(len(room_B), device=room_B.device)[room_B > 0]
    low_B = (0.5 * (8 * room_B).log() - range_B.log()).clamp(min=_LEAST, max=0)  # log c, as all is
    base_BV, pull_BV, room_B, low_B = (t[left_B] for t in (base_BV, pull_BV, room_B, low_B))
    high_B, at_B = torch.zeros_like(low_B), torch.zeros_like(low_B)
    for step in range(_STEPS):
        fused_BV = (base_BV + at_B.exp()[:, None] * pull_BV).log_softmax(-1)
        kl_B = divergence(fused_BV, base_BV)
        within_B = kl_B <= room_B
        share_B[left_B[within_B]] = at_B.exp()[within_B]
        over_B = ~(within_B & ((at_B == 0) | (kl_B >= _CLOSE * room_B)))
        if not bool(over_B.any()):
            break
        low_B, high_B = torch.where(within_B, at_B, low_B), torch.where(within_B, high_B, at_B)
        slope_B = (2 * at_B).exp() * _variance(fused_BV.exp(), pull_BV) / kl_B
        newton_B = at_B - (kl_B / (_AIM * room_B)).log() / slope_B
        inside_B = (newton_B > low_B) & (newton_B < high_B) & (step % 4 > 0)
        at_B = torch.where(inside_B, newton_B, (low_B + high_B) / 2)
        left_B, base_BV, pull_BV, room_B, low_B, high_B, at_B = (
            t[over_B] for t in (left_B, base_BV, pull_BV, room_B, low_B, high_B, at_B)
        )
    return share_B


_STEPS = 60  # a handful is the rule; every fourth halves the bracket
_CLOSE, _AIM = 0.999, 0.9995  # of the room
_LEAST = -600.0  # log c, where float64 ends


def _variance(p_BV: Tensor, value_BV: Tensor) -> Tensor:
    mean_B1 = (p_BV * value_BV).sum(-1, keepdim=True)
    return (p_BV * (value_BV - mean_B1).square()).sum(-1)


def mean_under(logp_BV: Tensor, logp_base_BV: Tensor) -> Tensor:
    """Mean of a stream's log-probs under the base, over what both can give, nats, [B].

    It is the negative cross-entropy of the base to the stream; a token that the stream cannot give
    would make it −inf and has no part. 0 where they share no token.
    """
    both_BV = (logp_BV > NEVER) & (logp_base_BV > NEVER)
    share_BV = torch.where(both_BV, logp_base_BV, NEVER).softmax(-1)
    return torch.where(both_BV, share_BV * logp_BV, 0.0).sum(-1)


def entropy(logp_V: Tensor) -> float:
    """Entropy of one distribution, nats."""
    p_V = logp_V.exp()
    return -float(torch.where(p_V > 0, p_V * logp_V, 0.0).sum())


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
    most: int = 0,
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
        most: says that every row's `top_k` is in [1, most]: then only so many are ranked, which a
            large vocabulary makes many times faster. 0 says nothing.

    Returns:
        [B, V] log-probs, normalised over what was kept, −inf elsewhere.
    """
    warm_B1 = torch.where(temperature_B > 0, temperature_B, 1.0).unsqueeze(-1)
    logp_BV = (logp_BV / warm_B1).log_softmax(-1)
    if not filters:
        return logp_BV
    if 0 < most < logp_BV.shape[-1]:
        ranked_BV, order_BV = logp_BV.topk(most, dim=-1)
    else:
        ranked_BV, order_BV = logp_BV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(ranked_BV.shape[-1], device=logp_BV.device)
    within_k_BV = (top_k_B.unsqueeze(-1) <= 0) | (rank_V < top_k_B.unsqueeze(-1))
    ranked_BV = ranked_BV.masked_fill(~within_k_BV, NEVER).log_softmax(-1)
    mass_before_BV = ranked_BV.exp().cumsum(-1) - ranked_BV.exp()
    keep_BV = (top_p_B.unsqueeze(-1) >= 1) | (mass_before_BV < top_p_B.unsqueeze(-1))
    keep_BV &= ranked_BV >= ranked_BV[..., :1] + min_p_B.unsqueeze(-1).log()
    keep_BV &= within_k_BV
    keep_BV[..., 0] = True
    kept_BV = torch.zeros_like(logp_BV, dtype=torch.bool).scatter(-1, order_BV, keep_BV)
    return logp_BV.masked_fill(~kept_BV, NEVER).log_softmax(-1)


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) that decides token `position` of the row with this seed.

    A pure function (SplitMix64's output mix over the counters), so a row's draws depend on
    nothing else in the batch and a run can be resumed anywhere.

    Args:
        seed: of the row.
        position: tokens generated before.
    """
    mask = (1 << 64) - 1
    start = _mix64(seed & mask)
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
