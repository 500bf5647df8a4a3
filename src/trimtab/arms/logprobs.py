"""Log-probs of response tokens, without logits for the prompt.

Only the positions that predict a response token go through the LM head, a chunk at a time, and a
chunk's logits are recomputed in the backward pass: peak memory holds one chunk of [chunk, V].
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trimtab.models.lm_head import causal_lm, head_logits
from trimtab.models.padding import position_ids
from trimtab.models.protocols import CausalLM
from trimtab.models.renamed import runs_layers_again
from trimtab.models.ropes import rows_alike


def response_logp(
    model: CausalLM, batch: dict[str, Tensor], *, chunk: int = 1024, linear: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probs of every response token of a batch, or their raw logits.

    Args:
        model: a causal LM, with or without a PEFT adapter.
        batch: `input_ids`, `attention_mask`, `response_mask`, each [N, T]; for a conditioned ARM
            also `preference`, [N, K] or [1, K] for all rows.
        chunk: response tokens that go through the LM head at once.
        linear: take the tokens' logits as they are, with no softmax.

    Returns:
        `logp_M` float32 and `row_M` int64: one entry per response token, and its row in the batch.
    """
    lm = causal_lm(model)
    one = is_distributed() or _recomputes_rows(lm, batch)
    parts = [
        (rows[part], columns)
        for rows in rows_alike(lm, batch["attention_mask"], may_split=not one)
        for part, columns in _parts(batch["attention_mask"][rows], one=one)
    ]
    part_logps = [_part_logp(lm, batch, rows, columns, chunk, linear) for rows, columns in parts]
    logp_M, row_M = (torch.cat(values) for values in zip(*part_logps, strict=True))
    in_order = row_M.argsort(stable=True)
    return logp_M[in_order], row_M[in_order]


def _part_logp(
    lm: Any, batch: dict[str, Tensor], rows_P: Tensor, columns: slice, chunk: int, linear: bool
) -> tuple[Tensor, Tensor]:
    """`response_logp` of some rows, cut to the columns where they have tokens."""
    hidden_MH, target_M, row_M = _predicting(lm, batch, rows_P, columns)
    chunks = zip(torch.split(hidden_MH, chunk), torch.split(target_M, chunk), strict=True)
    score = _chunk_logit if linear else _chunk_logp
    return torch.cat([score(lm, hidden, target) for hidden, target in chunks]), row_M


def response_hidden(model: CausalLM, batch: dict[str, Tensor]) -> Tensor:
    """What the LM head reads to predict each response token, row by row, [M, H].

    Args:
        model: a causal LM, with or without a PEFT adapter.
        batch: see `response_logp`.
    """
    lm = causal_lm(model)
    groups = rows_alike(lm, batch["attention_mask"], may_split=not is_distributed())
    parts = [_predicting(lm, batch, rows, slice(None)) for rows in groups]
    hidden_MH, _, row_M = (torch.cat(values) for values in zip(*parts, strict=True))
    return hidden_MH[row_M.argsort(stable=True)]


def _predicting(
    lm: Any, batch: dict[str, Tensor], rows_P: Tensor, columns: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Of some rows' response tokens: the states that predict them [M, H], their ids and rows."""
    ids, mask, response = (
        batch[name][rows_P, columns] for name in ("input_ids", "attention_mask", "response_mask")
    )
    if (preference := batch.get("preference")) is not None:
        lm.conditioning.open(preference if len(preference) == 1 else preference[rows_P])
    body = lm.base_model
    positions: dict[str, Tensor] = {}
    if "position_ids" in inspect.signature(type(body).forward).parameters:  # not with ALiBi
        positions["position_ids"] = position_ids(mask)
    hidden_PTH = body(
        input_ids=ids, attention_mask=mask, use_cache=False, **positions
    ).last_hidden_state
    predicts = response[:, 1:].bool()
    rows_M = rows_P[predicts.nonzero()[:, 0]]
    return hidden_PTH[:, :-1][predicts], ids[:, 1:][predicts], rows_M


def _recomputes_rows(lm: CausalLM, batch: dict[str, Tensor]) -> bool:
    """Whether the backward pass runs layers again, and must find the rows' preferences as set."""
    return len(batch.get("preference", ())) > 1 and runs_layers_again(lm)


def is_distributed() -> bool:
    """Whether sharded layers may meet at every forward, so that all processes must run as many."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _parts(mask_NT: Tensor, *, one: bool = False) -> list[tuple[Tensor, slice]]:
    """Rows in up to four parts of rows of similar length, each with the columns it needs.

    Padding is computed like any token, and half of a mixed batch can be padding. A part costs a
    pass of its own, so they are as few as still save a tenth of the positions.
    """
    rows, width = mask_NT.shape
    if one:
        return [(torch.arange(rows, device=mask_NT.device), slice(0, width))]
    at_T = torch.arange(width, device=mask_NT.device)
    first, last = torch.stack(  # of each row's tokens, padding on either side
        [at_T.masked_fill(mask_NT == 0, width).amin(-1), (at_T * mask_NT).amax(-1)]
    ).tolist()
    order = sorted(range(rows), key=lambda row: last[row] - first[row], reverse=True)
    best, positions = [order], rows * width
    for count in (2, 4):
        size = -(-rows // count)
        groups = [order[i : i + size] for i in range(0, rows, size)]
        cost = sum(
            len(g) * (max(last[r] for r in g) + 1 - min(first[r] for r in g)) for g in groups
        )
        if cost < 0.9 * positions:
            best, positions = groups, cost
    return [
        (
            torch.tensor(sorted(group), device=mask_NT.device),
            slice(min(first[r] for r in group), max(last[r] for r in group) + 1),
        )
        for group in best
    ]


def _chunk_logp(lm: CausalLM, hidden_MH: Tensor, target_M: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return _target_logp(lm, hidden_MH, target_M)
    if _has_frozen_linear_head(lm):
        head = lm.get_output_embeddings()
        frozen: Tensor = _FrozenHeadLogp.apply(hidden_MH, target_M, head)  # type: ignore[no-untyped-call]
        return frozen
    logp: Tensor = checkpoint(_target_logp, lm, hidden_MH, target_M, use_reentrant=False)
    return logp


def _chunk_logit(lm: CausalLM, hidden_MH: Tensor, target_M: Tensor) -> Tensor:
    logit: Tensor = checkpoint(_target_logit, lm, hidden_MH, target_M, use_reentrant=False)
    return logit


def _target_logit(lm: CausalLM, hidden_MH: Tensor, target_M: Tensor) -> Tensor:
    logits_MV = head_logits(lm, hidden_MH).float()
    return logits_MV.gather(-1, target_M[:, None]).squeeze(-1)


def _target_logp(lm: CausalLM, hidden_MH: Tensor, target_M: Tensor) -> Tensor:
    logits_MV = head_logits(lm, hidden_MH).float()
    return logits_MV.gather(-1, target_M[:, None]).squeeze(-1) - logits_MV.logsumexp(-1)


class _FrozenHeadLogp(torch.autograd.Function):
    """Log-probs of targets under a frozen head, with the gradient made in the forward pass.

    d logp / d hidden = W[target] - softmax(W hidden) · W, up to the factor that comes from above:
    two products with W where recomputing the logits takes three.
    """

    @staticmethod
    def forward(ctx: Any, hidden_MH: Tensor, target_M: Tensor, head: nn.Linear) -> Tensor:
        """[M, H], [M] -> [M] float32."""
        logp_MV = head(hidden_MH).float().log_softmax(-1)
        logp_M = logp_MV.gather(-1, target_M[:, None]).squeeze(-1)
        if ctx.needs_input_grad[0]:
            expected_MH = torch.mm(logp_MV.exp().to(head.weight.dtype), head.weight)
            slope_MH = torch.embedding(head.weight, target_M) - expected_MH
            ctx.save_for_backward(slope_MH.to(hidden_MH.dtype))
        return torch.as_tensor(logp_M)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """[M] -> [M, H]."""
        (slope_MH,) = ctx.saved_tensors
        return grads[0][:, None].to(slope_MH.dtype) * slope_MH, None, None


def _has_frozen_linear_head(lm: CausalLM) -> bool:
    head, config = lm.get_output_embeddings(), lm.config.get_text_config()
    changes = ("logit_scale", "logits_scaling", "final_logit_softcapping")
    return (
        type(head) is nn.Linear
        and type(head.weight.data) is Tensor
        and head.weight.numel() == head.in_features * head.out_features  # not so under ZeRO-3
        and head.bias is None
        and not head.weight.requires_grad
        and all(getattr(config, name, None) is None for name in changes)
    )
