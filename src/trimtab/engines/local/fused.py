"""Low-rank terms per row: streams that share a backbone, in one forward.

S streams of B requests are B · S rows, request by request. Decoding is bound by reading W, so
every stream after the first costs little more than its low-rank term. K adapters of rank R.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Pairs = Sequence[tuple[Tensor, Tensor] | None]
"""Per adapter, a layer's (A [R, in], s · B [out, R]); None adds nothing."""


class RowTerms:
    """Which low-rank terms each row of the current forward takes; shared by all layers.

    All adapters' terms lie side by side, R columns each: a row keeps the columns of its own
    stream and zeroes the rest. With K adapters that costs K · R multiplications per feature
    instead of R, next to nothing beside W, and any mix of rows is one product.

    Args:
        streams: S.
        adapters: K; they belong to the last K streams.
        rank: R, the largest rank of any adapter in any layer.
        device: where the layers are.
        dtype: of the layers.
    """

    def __init__(
        self,
        streams: int,
        adapters: int,
        rank: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.rank, self.columns = rank, adapters * rank
        # on a CPU a small product in half precision takes three times as long as in float32
        self.dtype = torch.float32 if torch.device(device).type == "cpu" else dtype
        self._own_SC = torch.zeros(streams, self.columns, device=device, dtype=self.dtype)
        for k in range(adapters):
            self._own_SC[streams - adapters + k, k * rank : (k + 1) * rank] = 1
        self._keep: dict[int, Tensor] = {}

    def open(self, requests: int, tokens: int, streams: Sequence[int] | None = None) -> None:
        """Set the rows of the next forward: requests x (some of the) streams x tokens."""
        own_SC = self._own_SC if streams is None else self._own_SC[streams]
        per_row = own_SC.repeat(requests, 1) if requests > 1 else own_SC
        keep_MC = per_row.repeat_interleave(tokens, 0) if tokens > 1 else per_row
        self._keep = {1: keep_MC}

    def side_by_side(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """All adapters' factors of one layer: down [K · R, in] and up [K · R, out].

        Smaller ranks are filled with zeros.
        """
        a, b = next(pair for pair in pairs if pair is not None)
        down, up = a.new_zeros(self.columns, a.shape[1]), b.new_zeros(self.columns, b.shape[0])
        for k, pair in enumerate(pairs):
            if pair is not None:
                own = slice(k * self.rank, k * self.rank + pair[0].shape[0])
                down[own], up[own] = pair[0], pair[1].t()
        return down, up.to(self.dtype)

    def add(self, y_MO: Tensor, z_MC: Tensor, up_CO: Tensor, layers: int = 1) -> None:
        """Add to y what each row keeps of z = x · down, times up; for some layers at once."""
        if layers not in self._keep:
            self._keep[layers] = self._keep[1].repeat(1, layers)
        kept_MC = z_MC * self._keep[layers]
        if y_MO.dtype == self.dtype:
            y_MO.addmm_(kept_MC, up_CO)
        else:
            y_MO.add_(torch.mm(kept_MC, up_CO))


class FusedLayer(nn.Module):
    """Any frozen linear layer (quantised, transposed, …) whose rows add their own low-rank term.

    Args:
        inner: the layer.
        terms: what the rows of the current forward take.
        pairs: the layer's factors.
    """

    def __init__(self, inner: nn.Module, terms: RowTerms, pairs: Pairs) -> None:
        super().__init__()
        self.inner = inner
        self._terms = terms
        down, up = terms.side_by_side(pairs)
        self._down: Tensor
        self._up: Tensor
        self.register_buffer("_down", down.t().to(terms.dtype), persistent=False)
        self.register_buffer("_up", up, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, in] -> [N, T, out]."""
        y: Tensor = self.inner(x)
        z_MC = torch.mm(x.reshape(-1, x.shape[-1]).to(self._down.dtype), self._down)
        self._terms.add(y.view(-1, y.shape[-1]), z_MC, self._up)
        return y
