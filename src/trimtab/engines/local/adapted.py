"""Low-rank terms per token: streams that share a backbone, in one forward.

A forward has M tokens of any number of rows, packed. Decoding is bound by reading W, so every
stream after the first costs little more than its low-rank term.

All adapters' columns of a layer lie side by side. What a token takes of them is a gain per column,
linear in a few coefficients of its row: one for a plain LoRA (1 for the rows of its own stream, 0
for all others), one per objective for a conditioned ARM (the row's preference). Any mix of
streams and of preferences is so one product, and a preference costs what a plain LoRA does.
J coefficients of all streams, C columns of a layer, X columns of all layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trimtab.arms.adapter import AdapterWeights, LowRank

Terms = Sequence[LowRank | None]
"""Per adapter, what it adds to a layer; None adds nothing."""


_LARGE = 100_000
"""Numbers of an output from which half precision is faster on a CPU, too, by up to nine times."""


class RowTerms:
    """How the tokens of the current forward take the adapters' columns; shared by all layers.

    Args:
        adapters: each belongs to a stream of its own.
        device: where the layers are.
        dtype: of the layers.
    """

    def __init__(
        self,
        adapters: Sequence[AdapterWeights],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.widths = [adapter.width for adapter in adapters]
        # on a CPU a small product in half precision takes three times as long as in float32
        self.dtype = torch.float32 if torch.device(device).type == "cpu" else dtype
        self._device = device
        self._tables: list[tuple[Tensor, Tensor | None]] = []  # of the layers, until all are known
        self._gain_JX = self._shift_JX = torch.empty(0)
        self._gain_MX: Tensor = torch.empty(0)
        self._shift_MX: Tensor | None = None
        self._columns = 0

    def side_by_side(self, terms: Terms) -> tuple[Tensor, Tensor, slice]:
        """A layer's columns: down [C, in], up [C, out], and their place among those of all layers.

        The tables of gains and shifts grow by the same columns.
        """
        there = [(i, term) for i, term in enumerate(terms) if term is not None]
        down = torch.cat([term.a for _, term in there])
        up = torch.cat([term.b.t() for _, term in there]).to(self.dtype)
        shape = (sum(self.widths), len(down))
        gain, shift, at = torch.zeros(shape), torch.zeros(shape), 0
        for i, term in there:
            rows = slice(sum(self.widths[:i]), sum(self.widths[: i + 1]))
            columns = slice(at, at + len(term.a))
            gain[rows, columns] = 1.0 if term.gain is None else term.gain.float().cpu()
            if term.shift is not None:
                shift[rows, columns] = term.shift.float().cpu()
            at = columns.stop
        self._tables.append((gain, shift if shift.any() else None))
        place = slice(self._columns, self._columns + len(down))
        self._columns = place.stop
        return down, up, place

    def _finish(self) -> None:
        """Join the layers' tables into one."""
        gains, shifts = zip(*self._tables, strict=True)
        self._gain_JX = torch.cat(gains, 1).to(self._device)
        filled = [
            torch.zeros_like(g) if s is None else s for g, s in zip(gains, shifts, strict=True)
        ]
        some = any(shift is not None for shift in shifts)
        self._shift_JX = torch.cat(filled, 1).to(self._gain_JX) if some else torch.empty(0)
        self._tables.clear()

    def open(self, coefficients_MJ: Tensor) -> None:
        """Set the tokens of the next forward; float32, as a preference of 0.3 is no bfloat16."""
        if self._tables:
            self._finish()
        self._gain_MX = coefficients_MJ @ self._gain_JX
        self._shift_MX = coefficients_MJ @ self._shift_JX if len(self._shift_JX) else None

    def add(self, y_MO: Tensor, z_MC: Tensor, up_CO: Tensor, place: slice) -> None:
        """Add to y what each token takes of z = x · down, times up."""
        gain = self._gain_MX[:, place]
        if self._shift_MX is None:
            kept_MC = z_MC * gain
        else:
            kept_MC = torch.addcmul(self._shift_MX[:, place], z_MC, gain)
        if y_MO.dtype == self.dtype or y_MO.numel() >= _LARGE:
            y_MO.addmm_(kept_MC.to(y_MO.dtype), up_CO.to(y_MO.dtype))
        else:
            y_MO.add_(torch.mm(kept_MC.to(self.dtype), up_CO))


class AdaptedLayer(nn.Module):
    """Any frozen linear layer (quantised, transposed, …) whose tokens add their own low-rank term.

    Args:
        inner: the layer.
        terms: what the tokens of the current forward take.
        added: what the adapters add to the layer.
    """

    def __init__(self, inner: nn.Module, terms: RowTerms, added: Terms) -> None:
        super().__init__()
        self.inner = inner
        self._terms = terms
        down, up, self._place = terms.side_by_side(added)
        self._down: Tensor
        self._up: Tensor
        self.register_buffer("_down", down.t().to(terms.dtype), persistent=False)
        self.register_buffer("_up", up, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, in] -> [N, T, out]."""
        y: Tensor = self.inner(x)
        z_MC = torch.mm(x.reshape(-1, x.shape[-1]).to(self._down.dtype), self._down)
        self._terms.add(y.view(-1, y.shape[-1]), z_MC, self._up, self._place)
        return y
