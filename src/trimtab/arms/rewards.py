"""The reward of a response: of an ARM its log-prob, of a trajectory model the value of its head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.arms.logprobs import is_distributed, response_logp
from trimtab.models.protocols import CausalLM
from trimtab.models.ropes import rows_alike

Batch = dict[str, Tensor]


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


@dataclass(frozen=True)
class ArmRewards:
    """Reward of an ARM: the response's log-prob under it.

    Attributes:
        chunk: response tokens that go through the LM head at once.
        length_normalize: per token instead of per response.
        linear: the tokens' raw logits instead of their log-probs.
    """

    chunk: int = 1024
    length_normalize: bool = False
    linear: bool = False

    def __call__(self, model: CausalLM, batch: Batch) -> Tensor:
        """Rewards of the batch's rows in nats, [2B].

        Where the batch has a `reference`, what the rows had under the model that training started
        from [2B], they are against that.
        """
        logp, row = response_logp(model, batch, chunk=self.chunk, linear=self.linear)
        rows = batch["input_ids"].shape[0]
        rewards = response_rewards(logp, row, rows, length_normalize=self.length_normalize)
        return rewards - batch["reference"] if "reference" in batch else rewards


def trajectory_rewards(model: Any, batch: Batch) -> Tensor:
    """Reward of a trajectory-level model: its scalar head on the last token, [2B]."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    groups = rows_alike(model, mask, may_split=not is_distributed())
    group_rewards = [
        model(input_ids=ids[rows], attention_mask=mask[rows]).logits.float().squeeze(-1)
        for rows in groups
    ]
    rewards: Tensor = torch.cat(group_rewards)[torch.cat(groups).argsort()]
    return rewards
