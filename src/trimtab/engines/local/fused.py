"""Streams that share a backbone, in one forward: one copy of the weights, read once per step.

S streams of B requests are B · S rows, request by request. Decoding is bound by reading W, so
every stream after the first costs little more than its low-rank term.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.arms.adapter import LoraWeights


class RowTerms:
    """Which low-rank terms each row of the current forward takes; shared by all fused layers.

    All adapters' terms lie side by side, R columns each: a row keeps the columns of its own
    stream and zeroes the rest. With K adapters that costs K · R multiplications per feature
    instead of R, next to nothing beside W, and any mix of rows is one product.

    Args:
        streams: S.
        adapters: K streams at the end that have a term; the first S - K have none.
        rank: R, the largest rank of any adapter in any layer.
    """

    def __init__(self, streams: int, adapters: int, rank: int) -> None:
        self.rank = rank
        self._streams = streams
        self._own_SC = torch.zeros(streams, adapters * rank)
        for k in range(adapters):
            self._own_SC[streams - adapters + k, k * rank : (k + 1) * rank] = 1
        self.keep_MC: Tensor

    def open(self, requests: int, tokens: int, like: Tensor) -> None:
        """Set the rows of the next forward: requests x streams x tokens."""
        own_SC = self._own_SC = self._own_SC.to(like.device, like.dtype)
        per_row = own_SC.repeat(requests, 1) if requests > 1 else own_SC
        self.keep_MC = per_row.repeat_interleave(tokens, 0) if tokens > 1 else per_row


class FusedLinear(nn.Module):
    """A frozen linear layer whose rows each add the low-rank term of their own stream.

    Args:
        inner: the frozen layer.
        terms: what the rows of the current forward take.
        pairs: (A [R, in], B [out, R]) per adapter; None adds nothing.
    """

    def __init__(
        self, inner: nn.Module, terms: RowTerms, pairs: Sequence[tuple[Tensor, Tensor] | None]
    ) -> None:
        super().__init__()
        self.inner = inner
        self._terms = terms
        a, b = next(pair for pair in pairs if pair is not None)
        down = a.new_zeros(a.shape[1], len(pairs) * terms.rank)
        up = b.new_zeros(len(pairs) * terms.rank, b.shape[0])
        for k, pair in enumerate(pairs):
            if pair is not None:  # smaller ranks are filled with zeros
                own = slice(k * terms.rank, k * terms.rank + pair[0].shape[0])
                down[:, own], up[own] = pair[0].t(), pair[1].t()
        self._down: Tensor
        self._up: Tensor
        self.register_buffer("_down", down, persistent=False)
        self.register_buffer("_up", up, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, in] -> [N, T, out]."""
        y: Tensor = self.inner(x)
        x_MI, y_MO = x.reshape(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        y_MO.addmm_(torch.mm(x_MI.to(self._down.dtype), self._down).mul_(self._terms.keep_MC), self._up)
        return y


def add_terms(model: Any, streams: int, adapters: Sequence[LoraWeights]) -> RowTerms:
    """Give a model's linear layers, in place, the low-rank terms of its last streams.

    Args:
        model: a transformers causal LM, a module tree of its own.
        streams: S, with those that have no adapter first.
        adapters: one per stream after those.
    """
    rank = max(a.shape[0] for adapter in adapters for a, _ in adapter.layers.values())
    terms = RowTerms(streams, len(adapters), rank)
    for name in sorted({name for adapter in adapters for name in adapter.layers}):
        pairs = [adapter.layers.get(name) for adapter in adapters]
        model.set_submodule(name, FusedLinear(model.get_submodule(name), terms, pairs))
    return terms
