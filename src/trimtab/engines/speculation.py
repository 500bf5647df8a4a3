"""Exact speculative decoding: which drafted tokens may stay, and how many to draft.

The rule of Leviathan et al. (arXiv 2211.17192) and Chen et al. (arXiv 2302.01318), with the
*fused, tempered and filtered* distribution as its target: what comes out has that distribution
whatever was drafted. Axes: B rows, K drafted tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

DRAFT_LANE, ACCEPT_LANE = 2, 1
"""Lanes of `fusion.uniform`; lane 0 draws the token that ends a round."""


def verify(
    logp_BMV: Tensor,
    drafts_BK: Tensor,
    logq_BKV: Tensor | None,
    lengths_B: Tensor,
    temperature_B: Tensor,
    accept_BK: Tensor,
) -> tuple[Tensor, Tensor]:
    """Keep the drafts that the target accepts; the distribution of the token after them.

    A draft d is kept while u < p(d) / q(d); the first that is not kept is replaced by a draw from
    the residual max(p - q, 0), and when all are kept one more token comes from p. A greedy row
    keeps d while it is the likeliest token.

    Args:
        logp_BMV: shaped log-probs of the target before each draft and after the last, [B, K+1, V].
        drafts_BK: drafted tokens, [B, K].
        logq_BKV: shaped log-probs they were drawn from; None if each was certain.
        lengths_B: how many of a row's drafts count.
        temperature_B: 0 is greedy.
        accept_BK: u, uniform in [0, 1), [B, K].

    Returns:
        kept [B], how many drafts of each row stay, and the log-probs [B, V] that its next token
        is drawn from.
    """
    rows_B = torch.arange(len(drafts_BK), device=drafts_BK.device)
    at_BK1 = drafts_BK[..., None]
    ratio_BK = logp_BMV[:, :-1].gather(-1, at_BK1).squeeze(-1)
    if logq_BKV is not None:
        ratio_BK = ratio_BK - logq_BKV.gather(-1, at_BK1).squeeze(-1)
    likeliest_BK = logp_BMV[:, :-1].argmax(-1)
    good_BK = torch.where(
        temperature_B[:, None] > 0, accept_BK.log() < ratio_BK, likeliest_BK == drafts_BK
    )
    good_BK &= torch.arange(drafts_BK.shape[1], device=drafts_BK.device) < lengths_B[:, None]
    kept_B = good_BK.long().cumprod(-1).sum(-1)
    p_BV = logp_BMV[rows_B, kept_B]
    refused_B = (kept_B < lengths_B) & (temperature_B > 0)
    at_B = kept_B.clamp(max=drafts_BK.shape[1] - 1)
    if logq_BKV is None:
        q_BV = torch.zeros_like(p_BV).scatter(-1, drafts_BK[rows_B, at_B][:, None], 1.0)
    else:
        q_BV = logq_BKV[rows_B, at_B].exp()
    residual_BV = (p_BV.exp() - q_BV).clamp(min=0)
    total_B1 = residual_BV.sum(-1, keepdim=True)
    # where p and q agree to the last bit nothing is left over: only rounding refused
    use_B1 = refused_B[:, None] & (total_B1 > 0)
    return kept_B, torch.where(use_B1, (residual_BV / total_B1).log(), p_BV)


class DraftLength:
    """How many tokens to draft for one row, from what was accepted of its drafts so far.

    Args:
        longest: never more than this many.
        shortest: never fewer (0 lets drafting stop).
        verify_cost: of one more verified token, in passes of the target.
        draft_cost: of one drafted token, in passes of the target.
        fixed_cost: of a round without drafts, in passes of the target.
    """

    def __init__(
        self,
        longest: int,
        shortest: int,
        verify_cost: float,
        draft_cost: float,
        fixed_cost: float = 1.0,
    ) -> None:
        self._range = range(shortest, longest + 1)
        self._verify, self._draft, self._fixed = verify_cost, draft_cost, fixed_cost
        self._kept, self._tried = _PRIOR_KEPT, _PRIOR_TRIED

    @property
    def acceptance(self) -> float:
        """Estimated probability that the next draft is kept."""
        return self._kept / self._tried

    def learn(self, kept: int, drafted: int) -> None:
        """Take in one round; an older round counts for less, and a refusal ends the evidence."""
        tried = min(kept + 1, drafted)
        self._kept = _PRIOR_KEPT + _MEMORY * (self._kept - _PRIOR_KEPT) + kept
        self._tried = _PRIOR_TRIED + _MEMORY * (self._tried - _PRIOR_TRIED) + tried

    def best(self) -> int:
        """The number of drafts that gives the most tokens for their cost."""
        if not len(self._range):
            return 0
        return max(self._range, key=self._tokens_per_pass)

    def _tokens_per_pass(self, drafts: int) -> float:
        a = min(self.acceptance, 0.999)
        tokens = (1 - a ** (drafts + 1)) / (1 - a)
        return tokens / (self._fixed + drafts * (self._verify + self._draft))


_PRIOR_KEPT, _PRIOR_TRIED, _MEMORY = 1.4, 2.0, 0.9
